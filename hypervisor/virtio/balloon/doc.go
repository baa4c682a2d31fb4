// Package balloon is the traditional memory balloon (virtio 1.2, 5.5): the guest gives pages to the host and takes them
// back, tells statistics, and reports pages that it does not use.
//
// Addresses from the guest are checked against RAM, sorted and merged, so that a request of many pages costs few system
// calls. The package leaves out free page hinting, which only migration uses. Start reading at Device.
package balloon
