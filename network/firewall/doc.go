// Package firewall is virtd's part of the host's packet filter: two nftables tables named virtd, or after its directories where it
// is not the system's virtd. That of family inet has the rules of all virtual networks and is replaced as a whole in one
// transaction, so that no packet sees half of it and nothing has to be known about what was there before. That of family bridge has
// what single guests may send and get (<filterref>), each in chains of its own that come and go. Other people's tables are never
// touched.
//
// Watch tells when something goes out of a table; Applied and Guests.Repair tell whether it was missed.
//
// A rule in another table that drops packets still drops them: nftables asks every table. Obstacles finds those that will get
// in the way.
//
// Left out: filters that users write, bandwidth (package bridge), and rules that were made through the old iptables interface,
// which nftables does not show. Start reading at Network, then rules; for guests at Filter, then Guests.
package firewall
