// Package monitor is the QMP server of one machine.
//
// Framing, greeting, errors and event shape are QMP's (one JSON object a line; capabilities negotiation first). For
// people and tools it answers a documented subset of QEMU's commands:
//
//	qmp_capabilities, query-status, query-version, query-commands, query-name, query-uuid, query-kvm, query-cpus-fast,
//	stop, cont, system_powerdown, system_reset, quit, query-balloon, balloon {value}, query-blockstats, query-block,
//	block_resize, set_link {name, up}, query-rx-filter {name}, inject-nmi, human-monitor-command {command-line},
//	calc-dirty-rate {calc-time, calc-time-unit, sample-pages, mode: page-sampling|dirty-bitmap}, query-dirty-rate {calc-time-unit}
//
// and emits STOP, RESUME, RESET {guest}, POWERDOWN, SHUTDOWN {guest, reason}, GUEST_PANICKED {action},
// BALLOON_CHANGE {actual}, GUEST_CRASHLOADED, NIC_RX_FILTER_CHANGED, DEVICE_DELETED {device, path},
// DEVICE_UNPLUG_GUEST_ERROR {device, path}. The HMP commands are info balloon|status|version|
// name|uuid|kvm|cpus|block|network|pci|blockstats|dirty_rate, balloon MiB, calc_dirty_rate [-b] SECONDS [PAGES], stop, cont,
// system_powerdown, system_reset, quit, help.
//
// virtd itself drives the engine through versioned commands of ours, which carry fragments of hypervisor.Config:
//
//	x-virtd-hello {version}             -> {version, pid, engine, config-version, threads: {vcpus: [tid...], workers}, features: [...]},
//	                                       when the machine has been loaded, or restored
//	x-virtd-status                      -> {state: running|paused|shutdown|crashed, reason}
//	x-virtd-balloon-stats               -> {actual, stats: {swap-in, swap-out, major-faults, minor-faults, free, total,
//	                                       available, disk-caches, hugetlb-allocations, hugetlb-failures}, last-update}
//	x-virtd-balloon-stats-period {seconds}
//	x-virtd-block-stats                 -> {ID: {rd-bytes, rd-ops, rd-ns, wr-bytes, wr-ops, wr-ns, flush-ops, flush-ns, errors}}
//	x-virtd-net-stats                   -> {ID: {rx-bytes, rx-packets, rx-dropped, tx-bytes, ...}} (userspace back end only)
//	x-virtd-set-link {id, up}
//	x-virtd-set-throttle {id, throttle}    throttle is a fragment of Config, or null; it holds for all disks of its group
//	x-virtd-send-key {keys, hold-ms}    keys, numbered as Linux does, are pressed in order and released after a while; the
//	                                       reply does not wait for the guest
//	x-virtd-chardev {id}                -> {type, connected}
//	x-virtd-quit {reason}               -> the engine flushes its disks, answers, writes its exit record and leaves
//	x-virtd-save {devices, cpus}        with one descriptor: the guest is halted and its state written there; the reply comes
//	                                       when it is complete. The connection holds the state: when it ends before
//	                                       x-virtd-save-commit, the state is made void and the guest goes on. devices
//	                                       are the IDs of those that come and go, cpus the numbers of the vCPUs; a machine
//	                                       that has others is not saved
//	x-virtd-save-commit                 -> the state stays valid; only x-virtd-quit may follow
//	x-virtd-dump {live}                 with one descriptor: an ELF core file of the guest is written there
//	x-virtd-job                         -> {kind: save|dump|"", elapsed-ms, total, processed, written} of what runs now, or ran last
//	x-virtd-job-cancel                  -> a save or dump ends early and its reply is an error
//	x-virtd-attach {device, files}      with as many descriptors (SCM_RIGHTS) as files has names: device is a fragment of
//	                                       Config, {disk}, {vhostUserDisk}, {nic}, {rng} or {hostdev, vfio}
//	x-virtd-net-stream {id}             with one descriptor: another stream socket for a network device that has one
//	x-virtd-vhost-users                 -> [{id, connected}...] of the devices whose queues other processes serve;
//	                                       X_VIRTD_VHOST_USER {device, connected} tells when one of these came or went
//	x-virtd-vhost-user {id}             with one descriptor: the socket of another process for a device that lost its own
//	x-virtd-detach {id}                 asks the guest; DEVICE_DELETED follows when it lets go of the device
//	x-virtd-devices                     -> [ID...]
//	x-virtd-nics                        -> [{id, driver, reason}...]; the event X_VIRTD_NIC_BACKEND tells changes
//	x-virtd-cpus                        -> [{cpu, thread}...] of the vCPUs that are there, by number
//	x-virtd-plug-cpu {cpu}              the machine has vCPU cpu when the reply comes, and the guest was told
//	x-virtd-unplug-cpu {cpu}            asks the guest; DEVICE_DELETED for vcpuN follows when it lets go of vCPU N
//	x-virtd-set-action {shutdown}       -> what the guest's next power-off does: reset (in place) or poweroff (leave)
//
// BLOCK_IO_ERROR {device, operation, action: report, nospace, reason} tells that the host refused a request of a disk, once a
// second for each disk at most.
//
// An event that a command causes goes out before the command's reply (STOP before the reply to stop), so that a client
// knows the order. SHUTDOWN goes out before the exit record is written, and before RESET when the action is reset.
// stop while stopped and cont while running succeed and send no event.
//
// No command takes a path. Several clients are served at once; a dead or slow client is dropped and never blocks the
// next. An older engine under a newer virtd is the normal case after an upgrade: new commands are probed with
// query-commands.
package monitor
