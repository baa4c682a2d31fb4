// Package pmqos keeps the host's CPUs from sleeping while somebody waits for one thing after the other, each of which takes
// several of them to wake up: the client, the server, the disk's interrupt, the kernel's own threads.
//
// A CPU that rests for a while is put to sleep so deeply that it takes up to some hundred microseconds to wake; of one that is
// a virtual machine's, the host's CPU has to be woken first. A client that defines one domain after the other meets that
// several times with each, until its work alone keeps the CPUs from resting so long. The kernel's PM QoS interface (its
// documentation: power/pm_qos_interface) lets a process ask for more: while /dev/cpu_dma_latency is open with 0 in it, CPUs
// without work wait for it awake. That takes power, so it is asked for at the beginning of bursts only, and for a moment.
//
// Left out: limits for single CPUs and devices.
//
// Start reading at Latency.
package pmqos
