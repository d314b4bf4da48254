package fs

import (
	"github.com/ctrfs/ctrfs/engine"
)

// execRows are the files of an exec: those of a container that are about its program alone. What is not set is the container's.
var execRows = []row{
	{name: "cmd", shape: single, lines: true, def: "none",
		read: ofConfig((*engine.Config).Cmd), set: asText((*engine.Config).SetCmd),
		help: "the program and its arguments, as of a container"},
	{name: "env", shape: list, def: "the container's",
		read: ofConfig(envText), list: &listing{(*engine.Config).Env, (*engine.Config).SetEnv},
		help: "KEY=VALUE a line"},
	{name: "cwd", shape: single, def: "the container's",
		read: ofConfig((*engine.Config).Cwd), set: asText((*engine.Config).SetCwd),
		help: "working directory inside the container; created if missing, but not without mnt new in the container's namespaces"},
	{name: "user", shape: single, def: "the container's",
		read: ofConfig((*engine.Config).User), set: asText((*engine.Config).SetUser),
		help: "whom the program runs as, as of a container"},
	{name: "tty", shape: single, live: true,
		read: ofConfig((*engine.Config).TTY), set: asText((*engine.Config).SetTTY),
		help: "1, or its size as COLSxROWS, gives the program a terminal, whose output goes to log; only the size changes while it runs"},
	{name: "console", shape: linked, link: engine.Program.Console, absent: "write 1 into tty, and start it",
		help: "while it runs with a tty, a link to a terminal of the host's, as of a container: ctrfs attach web/exec/x"},
	// The link comes before what it depends on: rm -r resets a setting by removing it.
	{name: "stdin", shape: linked, link: engine.Program.Input, absent: "write 1 into stdin.open first",
		help: "while stdin.open is 1, a link to the FIFO that is the program's standard input; it does not end with a writer"},
	{name: "stdin.open", shape: single, live: true,
		read: ofConfig((*engine.Config).StdinOpen), set: asText((*engine.Config).SetStdinOpen),
		help: "1 gives the program a standard input, which is written to stdin; 0 is the end of it, or /dev/null from the start"},
	{name: "start", shape: order, act: toProgram(start),
		help: "write 1: runs cmd in the container; returns once the program has been executed, or fails with the errno of what failed"},
	{name: "kill", shape: order, act: toProgram(kill),
		help: "write a signal's name or number: sends it to the program"},
	{name: "state", shape: single, read: ofView(func(v *engine.View) string { return string(v.State) }),
		help: "created, running, paused or exited"},
	{name: "pid", shape: single, read: ofView(func(v *engine.View) string { return unlessZero(v.PID) }),
		help: "host pid of the program; empty when it does not run"},
	{name: "exit", shape: single, read: ofView(func(v *engine.View) string { return v.Exit.Code() }),
		help: "the last exit as a shell tells it: 0, 3, 137 (128 + 9); empty before the first"},
	{name: "wait", shape: stream, wait: exited,
		help: "blocks until the program does not run, then reads as exit"},
	{name: "status", shape: keyed, read: ofView(execStatus),
		help: "state, pid, started, finished, exit, signal, path, id"},
	{name: "log", shape: logged, log: output,
		help: "what the program wrote to stdout and stderr; kept after the exit, begun anew by start"},
	{name: "error", shape: single, read: ofView(func(v *engine.View) string { return v.Failure }),
		help: "why the last operation failed, and the cure; emptied by the next successful start"},
	{name: "plan", shape: table, read: ofProgram(engine.Program.Plan),
		help: "the steps that start takes or took, one a line"},
}

// execStatus leaves out what there is not, as a container's does.
func execStatus(v *engine.View) string {
	return formatKeyed([]pair{
		{"state", string(v.State)},
		{"pid", unlessZero(v.PID)},
		{"started", timeText(v.Started)},
		{"finished", timeText(v.Exit.Finished)},
		{"exit", v.Exit.Code()},
		{"signal", signalText(v.Exit)},
		{"path", v.Path},
		{"id", v.ID},
	})
}

// signalText names the signal that ended a program, if one did.
func signalText(x engine.Exit) string {
	if !x.Happened() || x.Unknown || !x.Status.Signaled() {
		return ""
	}
	return engine.SignalName(x.Status.Signal())
}
