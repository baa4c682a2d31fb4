// Command bench runs the same work on virtd and on what it replaces, alternately, on one host, and prints how they compare.
//
//	bench [-n ROUNDS] [-o FOLDER] [-load PROGRAM] [-images FOLDER] [-vmm PROGRAM] [-peer PROGRAM] [BENCHMARK...]
//	bench [-n ROUNDS] [-o FOLDER] -virtd PROGRAM -libvirtd TREE libvirtd
//
// Our engine next to QEMU's q35: time to user space, memory beyond guest RAM, wake-ups of an idle guest, disk throughput; and the
// network, with the packets moved by the engine or by vhost, one queue or four, between a guest and its host or another guest:
// throughput, the time of a request and its answer, processor time beside each, and datagrams lost. That needs root, KVM that
// boots Linux, free 2 MiB huge pages, and the lab's guest images; bench/run.sh runs it in the lab. Both sides get the same
// kernel, initramfs, memory and backing, one vCPU of the host's type for each queue, and virtio devices behind root ports; in
// "vf" the same virtual function of a network card too, next to virtio, vhost and an emulated card on the same wire.
//
// Our daemon next to libvirtd: calls a second and the processor time of each, definitions, memory. That needs root only, and
// no domain runs. Both daemons run in namespaces of their own (private.sh), on the same disk, and get the same calls from the
// same client.
//
// The exit status is 1 when a promised bound was missed (see bench/ab), 2 on errors. Start reading at benchmarks in main.go.
package main
