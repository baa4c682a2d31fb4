// Package confine takes from the engine process what it no longer needs before the guest's first instruction (design
// decision 2): no_new_privs, an empty Landlock domain (no path, no TCP port, no abstract socket, no signal to others),
// and a seccomp list of the system calls that a running machine makes, on every thread.
//
// What a host kernel lacks is reported and not fatal. The uid, namespaces, cgroup and limits are virtd's to set when it
// starts the process. Start reading at Apply.
package confine
