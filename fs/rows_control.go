package fs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// controlRows start and stop a container and tell what it does.
var controlRows = []row{
	{name: "start", shape: order,
		act:  toProgram(start),
		help: "write 1: launches cmd; returns once the program has been executed, or fails with the errno of what failed; with net.listen it opens the sockets"},
	{name: "stop", shape: order,
		act: toContainer(func(by engine.Caller, c engine.Container, value string) error {
			return c.Stop(by, strings.TrimSpace(value) == stopForUmount)
		}),
		help: "write 1: sends stop.signal and returns; KILL follows after stop.timeout; ends restarts; umount lets unless-stopped start it at the next mount"},
	{name: "kill", shape: order, act: toProgram(kill),
		help: "write a signal's name or number: sends it to PID 1"},
	{name: "state", shape: single, read: ofView(func(v *engine.View) string { return string(v.State) }),
		help: "created, listening, running, paused, stopping or exited, also while a restart is due"},
	{name: "pid", shape: single, read: ofView(func(v *engine.View) string { return unlessZero(v.PID) }),
		help: "host pid of PID 1; empty when there is none"},
	{name: "exit", shape: single, read: ofView(func(v *engine.View) string { return v.Exit.Code() }),
		help: "the last exit as a shell tells it: 0, 3, 137 (128 + 9); empty before the first"},
	{name: "wait", shape: stream, wait: exited,
		help: "blocks until the container does not run, does not listen, and no restart is due, then reads as exit"},
	{name: "status", shape: keyed, read: ofView(statusText),
		help: "state, pid, started, finished, exit, signal, oom, restarts, restart.at, health, health.failures, health.last, rootfs, rootfs.mode, path, id"},
	{name: "ps", shape: table, mine: true, read: func(s source) (string, error) { return psOne(s.c, s.sight) },
		help: "a header and one line a process: host pid, pid inside, user inside, state, bytes resident, seconds of cpu, command"},
	{name: "stats", shape: keyed, read: ofContainer(statsOne),
		help: "counters and gauges, numbers only, of the container and those in it; net of its own namespace while it runs"},
	{name: "events", shape: stream, mine: true, feed: func(s source) engine.Events { return s.sight.events(s.tree.engine.Events(s.c)) },
		help: "as the root's events, of this container and those in it; ends when it is removed"},
	{name: "log", shape: logged, log: output,
		help: "what the program wrote to stdout and stderr; kept after the exit, begun anew by start, continued by restarts"},
	{name: "error", shape: single, read: ofView(func(v *engine.View) string { return v.Failure }),
		help: "why the last operation failed, and the cure; emptied by the next successful start"},
	{name: "plan", shape: table, read: ofProgram(engine.Program.Plan),
		help: "the steps that start takes or took, one a line"},
	{name: "id", shape: single, read: ofView(func(v *engine.View) string { return v.ID }),
		help: "an identity that mv does not change and no later container reuses"},
	{name: "exec", shape: nested, shelf: &execShelf,
		help: "mkdir exec/NAME makes a further program, which start runs in the container with its rights; its files are listed below"},
}

// stopForUmount is what ctrfs umount --stop writes.
const stopForUmount = "umount"

// start takes anything.
func start(by engine.Caller, p engine.Program, _ string) error { return p.Start(by) }

// kill takes what kill(1) takes, for PID 1 alone; cgroup.kill is for all.
func kill(by engine.Caller, p engine.Program, value string) error {
	sig, err := engine.ParseSignal("kill", strings.TrimSpace(value))
	if err != nil {
		return err
	}
	return p.Kill(by, sig)
}

// exited reads as the exit file does at the moment when the program has ended.
var exited = &waiting{
	until: func(ctx context.Context, s source) (string, error) {
		exit, err := s.p.Wait(ctx)
		return exit.Code(), err
	},
	now: func(s source) (string, bool) {
		return s.view.Exit.Code(), !s.view.State.Active() && s.view.Due.IsZero()
	},
}

// output is what a program wrote. The size is asked of the log itself, at that moment: tail -f follows by it.
var output = &stored{
	open: func(s source) (engine.Log, error) { return s.p.Log() },
	size: func(s source) int64 {
		l, err := s.p.Log()
		if err != nil {
			return 0
		}
		defer l.Close()
		size, _ := l.Size() // 0 when there is an error
		return size
	},
}

// statusText leaves out what there is not, so that grep -q finds a key only when it says something; oom and restarts are
// numbers and always there.
func statusText(v *engine.View) string {
	root, mode := v.Config.Rootfs(), string(v.Config.RootMode())
	if !v.Config.OwnMounts() {
		root, mode = "", "" // it runs on files that are there already
	}
	failures := ""
	if v.Health.State != "" {
		failures = fmt.Sprint(v.Health.Failures)
	}
	oom := "0"
	if v.OOM || v.Exit.OOM {
		oom = "1"
	}
	return formatKeyed([]pair{
		{"state", string(v.State)},
		{"pid", unlessZero(v.PID)},
		{"started", timeText(v.Started)},
		{"finished", timeText(v.Exit.Finished)},
		{"exit", v.Exit.Code()},
		{"signal", signalText(v.Exit)},
		{"oom", oom},
		{"restarts", fmt.Sprint(v.Restarts)},
		{"restart.at", timeText(v.Due)},
		{"health", v.Health.State},
		{"health.failures", failures},
		{"health.last", v.Health.Last},
		{"cpu.pressure", v.Config.Pressure("cpu.pressure")},
		{"memory.pressure", v.Config.Pressure("memory.pressure")},
		{"io.pressure", v.Config.Pressure("io.pressure")},
		{"rootfs", root},
		{"image", v.Config.Image()},
		{"rootfs.mode", mode},
		{"path", v.Path},
		{"id", v.ID},
	})
}

// unlessZero renders a pid: no process has the number 0.
func unlessZero(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// timeText renders a moment with its zone, to the second: what date -d and people read.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}
