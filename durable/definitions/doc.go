// Package definitions keeps the XML definitions of networks and of storage pools on disk: what is defined, what is active,
// and what starts with the host.
//
// Domains are not kept here: there are thousands of them, so they have an index and a journal (domain/store). Secrets have
// values beside their definitions (secret). Start reading at Store.
package definitions
