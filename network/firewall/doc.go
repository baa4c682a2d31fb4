// Package firewall is virtd's part of the host's packet filter: one nftables table, named virtd, with the rules of all virtual
// networks. It is replaced as a whole in one transaction, so that no packet sees half of it and nothing has to be known about
// what was there before. Other people's tables are never touched.
//
// A rule in another table that drops packets still drops them: nftables asks every table. Obstacles finds those that will get
// in the way.
//
// Left out: rules for single guests (filterref), bandwidth, and rules that were made through the old iptables interface, which
// nftables does not show. Start reading at Network, then rules.
package firewall
