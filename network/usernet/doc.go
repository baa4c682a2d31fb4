// Package usernet gives interfaces of type user their networks: a process for each, which speaks TCP and UDP with the world in
// the guest's place and so needs no privileges. It is passt where that is installed, else virtd-usernet, our own.
//
// The engine and the process share a stream socket; the process ends when the engine closes it. Like an engine it outlives
// virtd, whose successor finds it by its record; when it ends before the engine does, there is another.
//
// The two sides: Supervisor starts, finds and ends the processes; Serve is ours. Left out: vhost-user, which passt has too, and
// IPv6 with our own process, which is refused. Start reading at Config, then Supervisor.
package usernet
