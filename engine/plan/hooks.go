package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Points are the moments at which hooks run, by their names in config.json and in the order of a container's life.
const (
	Prestart        = "prestart"
	CreateRuntime   = "createRuntime"
	CreateContainer = "createContainer"
	StartContainer  = "startContainer"
	Poststart       = "poststart"
	Poststop        = "poststop"
)

// Steps for hooks: config.md of the specification, "POSIX-platform Hooks".
type (
	// Hooks has the child report its pid, and wait while others run what has to run on the host at that point. Without a
	// point it only reports, so that the hooks that follow can be told.
	Hooks struct {
		Point string
		Paths []string // for people
	}
	// Hook runs one hook and goes on when it has ended well. With an empty point the hook is all that the program is for.
	Hook struct {
		Point     string
		Path      string
		Args, Env []string
		Timeout   time.Duration
		Index     int    // which of the places for its output is its own
		Rights    []Step // what the hook does by itself before it is executed: the child comes to that later
	}
)

// HookLimit is how long a hook without a timeout may take. The specification leaves it open; but a start waits for its hooks,
// nothing else can be done to the container meanwhile, and a hook that hangs for good would keep it so.
const HookLimit = 30 * time.Second

func (PlaceRoot) String() string { return "attach the root, and change directory to it" }

func (s Hooks) String() string {
	if s.Point == "" {
		return "report the pid, for the state that hooks read"
	}
	return fmt.Sprintf("wait for the %s hooks on the host: %s", s.Point, strings.Join(s.Paths, ", "))
}

func (s Hook) String() string {
	return fmt.Sprintf("run the %s hook %s with arguments %q in the container, for at most %s", s.Point, s.Path, s.Args, s.Timeout)
}

// HooksOf are the hooks of one point.
func HooksOf(h *specs.Hooks, point string) []specs.Hook {
	if h == nil {
		return nil
	}
	//lint:ignore SA1019 prestart is deprecated, and still what many tools write
	first := h.Prestart
	return map[string][]specs.Hook{
		Prestart: first, CreateRuntime: h.CreateRuntime, CreateContainer: h.CreateContainer, StartContainer: h.StartContainer,
		Poststart: h.Poststart, Poststop: h.Poststop,
	}[point]
}

// NewHook is the step for a hook. Without arguments it gets its path as the first one, as a shell would have it.
func NewHook(point string, h specs.Hook) Hook {
	s := Hook{Point: point, Path: h.Path, Args: h.Args, Env: h.Env, Timeout: HookLimit}
	if len(s.Args) == 0 {
		s.Args = []string{path.Base(h.Path)}
	}
	if h.Timeout != nil {
		s.Timeout = time.Duration(*h.Timeout) * time.Second
	}
	return s
}

// OnHost are the steps of a program that runs a hook on the host, outside of any container. noFile is the hard RLIMIT_NOFILE.
func OnHost(h specs.Hook, noFile uint64) []Step {
	s := NewHook("", h)
	s.Rights = []Step{customaryNoFile(noFile)}
	return []Step{Clone{}, Session{}, Umask{0o022}, s}
}

// HookTime is how long the hooks of a start may take together.
func HookTime(h *specs.Hooks) (all time.Duration) {
	for _, point := range []string{Prestart, CreateRuntime, CreateContainer, StartContainer} {
		for _, hook := range HooksOf(h, point) {
			all += NewHook(point, hook).Timeout
		}
	}
	return all
}

// runtimeHooks are the steps for hooks that run on the host. By then everything is made but the files.
func runtimeHooks(h *specs.Hooks) (steps []Step) {
	for _, point := range []string{Prestart, CreateRuntime} {
		var paths []string
		for _, hook := range HooksOf(h, point) {
			paths = append(paths, hook.Path)
		}
		if len(paths) > 0 {
			steps = append(steps, Hooks{point, paths})
		}
	}
	if len(steps) == 0 && len(HooksOf(h, CreateContainer))+len(HooksOf(h, StartContainer)) > 0 {
		steps = append(steps, Hooks{})
	}
	return steps
}

// createHooks run in the container's namespaces, but with the host's files, to which the root has just been attached. They
// stand in it: the root of a user namespace could not reach it by its path.
func createHooks(hooks *specs.Hooks, h Host, becomeRoot bool) (steps []Step) {
	for i, hook := range HooksOf(hooks, CreateContainer) {
		s := NewHook(CreateContainer, hook)
		s.Index, s.Rights = i, []Step{customaryNoFile(h.NoFile)}
		if becomeRoot {
			s.Rights = append(s.Rights, BecomeRoot{})
		}
		steps = append(steps, s)
	}
	if len(steps) == 0 {
		return nil
	}
	return append([]Step{PlaceRoot{h.Mountpoint}}, steps...)
}

// startHooks are programs of the container, and may do no more than its own: what the child gives up last, because making
// a hook needs it, they give up themselves.
func startHooks(h *specs.Hooks, last []Step) (steps []Step) {
	before := len(HooksOf(h, CreateContainer))
	rights := slices.DeleteFunc(slices.Clone(last), isStdio) // it has its own
	for i, hook := range HooksOf(h, StartContainer) {
		s := NewHook(StartContainer, hook)
		s.Index, s.Rights = before+i, rights
		steps = append(steps, s)
	}
	return steps
}

func isStdio(s Step) bool {
	switch s.(type) {
	case Stdio, CloseRest, Listen:
		return true
	}
	return false
}
