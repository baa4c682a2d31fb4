// Command load is the other half of bench's network measurements, on the host and in guests: it answers requests, counts
// datagrams, and asks.
//
//	load serve                      answer on TCP and UDP port 7, count datagrams on UDP port 9, tell the count on TCP port 9
//	load tcp|udp ADDRESS SECONDS    one request of a byte after the other; prints "RR requests/s median-us p99-us"
//	load flood ADDRESS SECONDS SIZE datagrams as fast as they leave; prints "FLOOD sent-Mbit/s received-Mbit/s lost-percent"
//
// It is one static program without arguments to tune, because the same run on two engines is what is compared. Start reading at
// main.
package main
