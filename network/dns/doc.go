// Package dns answers the questions of one virtual network's guests: names that its XML gives, names of guests that have a
// lease, and everything else by asking the host's resolvers or those that the XML names. A Resolver takes and returns
// packets; package services has the sockets.
//
// Everything that comes in was written by guests, or by whoever answers on the Internet. Packets are bounded in size, forwarded
// questions in number and time, and only an answer to the question asked is passed on.
//
// Left out: a cache, which the host's resolver has, zone transfers, and DNSSEC validation; signatures are passed through.
// Start reading at Config, then Resolver.
package dns
