package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// OOM is what happens when a container's memory runs out: the content of memory.oom.
type OOM string

// What can happen. Where the killer is held, whoever needs memory waits until there is some.
const (
	OOMKill   OOM = "kill"   // the kernel kills a process
	OOMFreeze OOM = "freeze" // the container is paused
	OOMStop   OOM = "stop"   // the container is stopped
)

// oomWords are the values that memory.oom takes.
var oomWords = []OOM{OOMKill, OOMFreeze, OOMStop}

// OOM returns what happens when memory.max is reached and nothing can be reclaimed. The specification's disableOOMKiller
// says that nobody is killed; what is done instead is the extension's.
func (c *Config) OOM() OOM {
	m := c.Spec.Linux.Resources.Memory
	switch {
	case m == nil || m.DisableOOMKiller == nil || !*m.DisableOOMKiller:
		return OOMKill
	case c.Extension.OOM == OOMStop:
		return OOMStop
	}
	return OOMFreeze
}

// SetOOM sets it.
func (c *Config) SetOOM(word string) error {
	what := OOM(word)
	if !slices.Contains(oomWords, what) {
		return Invalid("memory.oom", word, "no such thing can happen", "write kill, freeze or stop")
	}
	c.Extension.OOM = ""
	if what == OOMStop {
		c.Extension.OOM = OOMStop
	}
	m := c.memory()
	m.DisableOOMKiller = nil
	if what != OOMKill {
		m.DisableOOMKiller = new(true)
	}
	c.tidy()
	return nil
}

// setOCIOOM takes the annotation, which only says what disableOOMKiller leaves open.
func (c *Config) setOCIOOM(word string) error {
	if word == "" {
		return nil
	}
	if OOM(word) != OOMStop || c.OOM() == OOMKill {
		return Invalid("memory.oom", word, "linux.resources.memory.disableOOMKiller says otherwise", "write stop and set that, or leave the annotation out")
	}
	c.Extension.OOM = OOMStop
	return nil
}

// Pressures are the files that take a trigger.
var Pressures = []string{"cpu.pressure", "memory.pressure", "io.pressure"}

// pressure returns where a file's trigger is kept.
func (x *Extension) pressure(file string) *string {
	return map[string]*string{"cpu.pressure": &x.CPUPressure, "memory.pressure": &x.MemoryPressure, "io.pressure": &x.IOPressure}[file]
}

// Pressure returns the trigger that was written into a pressure file, in the kernel's form, or "".
func (c *Config) Pressure(file string) string { return *c.Extension.pressure(file) }

// Bounds of a trigger's window in microseconds: kernel/sched/psi.c, WINDOW_MIN_US and WINDOW_MAX_US.
const (
	windowMin = 500_000
	windowMax = 10_000_000
)

// SetPressure sets the trigger of a file, "some 150000 1000000": an event is told when tasks were stalled for that many
// microseconds within a window. Empty text takes it out.
func (c *Config) SetPressure(file, trigger string) error {
	refuse := func(why string) error {
		return Invalid(file, trigger, why, "write some or full, the stall and the window in microseconds: some 150000 2000000; an empty line takes the trigger out")
	}
	words := strings.Fields(trigger)
	if len(words) == 0 {
		*c.Extension.pressure(file) = ""
		return nil
	}
	if len(words) != 3 || words[0] != "some" && words[0] != "full" {
		return refuse("not a trigger")
	}
	stall, errStall := strconv.ParseUint(words[1], 10, 32)
	window, errWindow := strconv.ParseUint(words[2], 10, 32)
	switch {
	case errStall != nil || errWindow != nil:
		return refuse("not a number of microseconds")
	case window < windowMin || window > windowMax:
		return refuse(fmt.Sprintf("the window is not within %d to %d", windowMin, windowMax))
	case stall == 0 || stall > window:
		return refuse("the stall is not within the window")
	}
	*c.Extension.pressure(file) = strings.Join(words, " ")
	return nil
}
