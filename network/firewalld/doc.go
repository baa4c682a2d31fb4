// Package firewalld puts the bridges of virtual networks into zones of firewalld, over its D-Bus interface (firewalld.dbus(5)): its
// rules cannot be changed by others so that they last. It is asked only where it runs; nothing starts it.
//
// Start reading at Zones.
package firewalld
