// Command virtd-usernet is the network of one interface of type user, where passt is not installed: see package
// virtd/network/usernet/gateway. virtd starts it; there is nothing to do with it by hand.
package main
