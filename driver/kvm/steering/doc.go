// Package steering makes the BPF program by which the kernel spreads the packets of a tap over its queues as a guest's driver
// wants (receive-side scaling, virtio 1.2, 5.1.6.5.7). virtd loads the program, which takes a privilege that engines have not;
// an engine gets it with its map as descriptors, gives the program to its tap, and writes the driver's wishes to the map, which it
// has in its memory. What lies where in the map is hypervisor/virtio/net/rss. Start reading at Open, then program.
package steering
