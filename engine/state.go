package engine

import (
	"strconv"
	"syscall"
	"time"
)

// State is what a container is doing, in one word: the content of its state file.
type State string

// The states. A container is born created, and exited is the only other state in which nothing of it runs.
const (
	Created   State = "created"   // never started since it was made
	Listening State = "listening" // armed: its sockets are open, the first connection launches it
	Running   State = "running"   // PID 1 has been executed and has not exited
	Paused    State = "paused"    // running, and frozen
	Stopping  State = "stopping"  // asked to stop; KILL follows
	Exited    State = "exited"    // PID 1 is gone
)

// transitions names, for each state, the states that may follow it. Removal is allowed from every state that is not
// [State.Active].
var transitions = map[State][]State{
	Created:   {Running, Listening},
	Listening: {Running, Exited, Created},
	Running:   {Paused, Stopping, Exited, Listening},
	Paused:    {Running, Stopping, Exited, Listening},
	Stopping:  {Exited, Listening},
	Exited:    {Running, Listening},
}

// To reports whether a container in state s may become next.
func (s State) To(next State) bool {
	for _, t := range transitions[s] {
		if t == next {
			return true
		}
	}
	return false
}

// Active reports whether anything of the container lives, or is armed: settings that are not live are then refused with EBUSY, and so
// is removal.
func (s State) Active() bool {
	switch s {
	case Listening, Running, Paused, Stopping:
		return true
	}
	return false
}

// Alive reports whether it has processes: what is only armed is active, and has none.
func (s State) Alive() bool { return s.Active() && s != Listening }

// Exit is how PID 1 ended. The zero Exit means that it never ran.
type Exit struct {
	Status   syscall.WaitStatus `json:"status"`            // as wait4(2) gave it
	Unknown  bool               `json:"unknown,omitempty"` // nobody was there to wait for it
	OOM      bool               `json:"oom,omitempty"`     // its memory ran out: the kernel killed in its group, or memory.oom acted
	Peak     uint64             `json:"peak,omitempty"`    // the most bytes of memory that were in use, where the host tells
	Started  time.Time          `json:"started"`
	Finished time.Time          `json:"finished"`
}

// Happened reports whether there was an exit at all.
func (e Exit) Happened() bool { return !e.Finished.IsZero() }

// Code renders the exit as a shell would: "0", "3", "137" (128 + 9); "unknown" when the status was lost; empty when
// nothing has exited yet.
func (e Exit) Code() string {
	switch {
	case !e.Happened():
		return ""
	case e.Unknown:
		return "unknown"
	case e.Status.Signaled():
		return strconv.Itoa(128 + int(e.Status.Signal()))
	}
	return strconv.Itoa(e.Status.ExitStatus())
}
