// Package keeper is the small process that is every container's parent, and the server's side of talking to it.
//
// # Model
//
// The keeper forks containers, waits for them, journals each exit, and restarts a server that died; it does no FUSE, no
// parsing and no network, so that nothing but its few hundred lines can take the containers' parent away. The server may
// be killed at any moment: the keeper tells the next one what lives and what has exited meanwhile.
//
// It also does what takes a child, and holds what must outlive a server: it makes namespaces, runs small programs in those of
// a container (a mount that is added while it runs), and holds the namespaces that others have entered and the file by which
// ranges of ids are claimed on this machine ([ClaimsFile]). Of each terminal that a container has it holds the master, and copies
// what the program writes there into the log (terminal.go).
//
// Both speak over a pair of sequenced-packet sockets, one fixed-size [message] a packet, descriptors as SCM_RIGHTS:
//
//	server                                   keeper
//	                 ◄── kindRunning, pidfd ──      for each container that lives     ┐
//	                 ◄── kindExit ────────────      for each exit not acknowledged    │ once, at the beginning
//	                 ◄── kindPinned, files ───      for each container with pins      │
//	                 ◄── kindListens, files ──      for each container with sockets
//	                 ◄── kindWaits, files ────      for each kindWaits of the server before, when an upgrade has ended that
//	                 ◄── kindListed, claims ──      the file of claims, see [Claims]          ┘
//	kindReady ────────►                             the mount answers
//	kindFailed ───────►                             it never will; text says why
//	                 ◄── kindReady ───────────      does it still? A service manager's watchdog wants to know; kindReady answers
//	kindStart ────────►                             program, descriptors
//	                 ◄── kindStarted, pidfd ──      executed; or errno and step
//	                 ◄── kindExit ────────────      PID 1 is gone and the journal says so
//	kindAck ──────────►                             the server has recorded that exit
//	kindNamespaces ───►                             text: the mappings of ids, of users and of groups
//	                 ◄── kindNamespacesMade ──      a user namespace, and others that it owns
//	kindPin, files ───►                             namespaces that outlive the processes in them
//	kindUnpin ────────►                             no longer
//	kindPerform ──────►                             a program that executes nothing, descriptors
//	                 ◄── kindPerformed ───────      done; or errno and step
//	kindRun ──────────►                             a program to be waited for, descriptors
//	                 ◄── kindRan ─────────────      its status; or errno and step
//	kindResize ───────►                             the new size of a terminal
//	                 ◄── kindResized ─────────      it has that; or errno
//	kindInput, file ──►                             what keeps a standard input open; without a file, no more
//	kindListen, files ►                             sockets that a container listens on; without files, none
//	                 ◄── kindListening ───────      they are held
//	kindAccept ───────►                             program, descriptors; text: whose sockets
//	                 ◄── kindStarted, pidfd ──      executed, with the next connection; or errno and step
//	                 ◄── kindLinger ──────────      an upgrade is about to end it: who is blocked in wait?
//	kindWaits, files ─►                             those, for the next server to answer: a connection to the kernel, and a list
//	kindLingers ──────►                             that was all
//
// The command line speaks to the keeper over a unix socket in the run directory, one line each way ([Request]). One of these lines
// comes with another program, which the keeper executes in its own place, under all that it keeps (upgrade.go). Where a service
// manager has started that, the keeper tells it that the mount answers, and then that all is well ([Service]).
//
// # Failure
//
// A container with init exits as a shell would whose program a signal has ended; then the keeper finds the signal in its name
// (init.go), and that is the exit.
//
// A server that dies is heard out: what it has said is done, and launches that it wanted have come to their end, or are ended after a
// second, before the next server is told what lives. A program that began to run later would be nobody's.
//
// An upgrade ends the server likewise, but before that it hands over who is blocked in wait: the connection to the kernel, which stays
// open, and the next server answers on it (fs.Heirs has why). To the keeper these are files without a meaning.
//
// An exit is in the journal before anyone is told, and counts until the server has acknowledged it. So is a run before its start is
// answered. If the keeper dies, containers live on without it, but for what it held (terminals are hung up); the next keeper finds the
// journal and adopts them (adopt.go).
//
// # Locks
//
// Keeper.mu guards everything. It is held while a server is started, so that its pid is known before it can be waited for, but
// not during a launch, which lasts until the program runs: a child on its way is found by the pid in its image. It is never
// held while a socket is written. Whoever stops what terminals copy takes their locks after it, and that of the readers of consoles last.
package keeper
