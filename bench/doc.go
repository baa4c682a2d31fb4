// Command bench runs the same work on our engine and on QEMU's q35, alternately, on one host, and prints how they
// compare: time to user space, memory beyond guest RAM, wake-ups of an idle guest, disk and network throughput.
//
//	bench [-n ROUNDS] [-o FOLDER] [-images FOLDER] [-vmm PROGRAM] [-peer PROGRAM] [start memory idle disk network start-variants]
//
// It needs root, KVM that boots Linux, free 2 MiB huge pages, and the lab's guest images; bench/run.sh runs it in
// the lab. Both sides get the same kernel, initramfs, memory and backing, one vCPU of the host's type, and virtio
// devices behind root ports. The exit status is 1 when a promised bound was missed (see bench/ab), 2 on errors.
// Start reading at benchmarks in main.go.
package main
