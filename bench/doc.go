// Command bench runs the same work on virtd and on what it replaces, alternately, on one host, and prints how they compare.
//
//	bench [-n ROUNDS] [-o FOLDER] [-images FOLDER] [-vmm PROGRAM] [-peer PROGRAM] [start memory idle disk network start-variants vf]
//	bench [-n ROUNDS] [-o FOLDER] -virtd PROGRAM -libvirtd TREE libvirtd
//
// Our engine next to QEMU's q35: time to user space, memory beyond guest RAM, wake-ups of an idle guest, disk and network
// throughput. That needs root, KVM that boots Linux, free 2 MiB huge pages, and the lab's guest images; bench/run.sh runs it
// in the lab. Both sides get the same kernel, initramfs, memory and backing, one vCPU of the host's type, and virtio devices
// behind root ports; in "vf" the same virtual function of a network card too, next to virtio, vhost and an emulated card on the
// same wire.
//
// Our daemon next to libvirtd: calls a second and the processor time of each, definitions, memory. That needs root only, and
// no domain runs. Both daemons run in namespaces of their own (private.sh), on the same disk, and get the same calls from the
// same client.
//
// The exit status is 1 when a promised bound was missed (see bench/ab), 2 on errors. Start reading at benchmarks in main.go.
package main
