// Package plan turns a container's configuration into the list of steps that launch it, before anything is done.
//
// The list is data: [Build] makes it, String prints it (the content of the plan file), and engine/launch translates it
// into system calls and runs it. What is printed is therefore what is executed, in that order. The package is pure: the
// same configuration and the same [Host] give the same list on any machine, which is how it is tested.
package plan

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Step is one thing that the child does on its way to execve(2). String describes it in one line.
type Step interface{ String() string }

// The steps, in the order in which [Build] uses them.
type (
	// Fork makes a first child, which enters what exists already before [Clone] makes the one that counts. Without it, Clone
	// is the first step.
	Fork struct {
		Copy bool // with memory of its own, as has the child after it, which a time namespace takes
	}
	// Join enters a namespace that exists already: another container's, or one that somebody pinned to a path.
	Join struct {
		Type specs.LinuxNamespaceType
		Text string // for people: whose it is
	}
	// Clone makes the child, with these namespaces of its own.
	Clone struct{ Namespaces []specs.LinuxNamespaceType }
	// BecomeRoot makes the child uid 0 of its user namespace, in which it had no id so far.
	BecomeRoot struct{}
	// Guard keeps everybody from looking into the child before it executes the program: no dumps, no ptrace, and a session
	// keyring of its own.
	Guard struct{}
	// JoinCgroup moves the child into its groups, each by the one write that costs nothing.
	JoinCgroup struct {
		Path   string   // below every hierarchy
		Limits []string // for people: "memory.max 268435456"
	}
	// CgroupNamespace makes those groups the root of what the child sees; hence it comes after joining.
	CgroupNamespace struct{}
	// Session detaches the child from the caller's terminal and job control.
	Session struct{}
	// Hostname sets the name in the new uts namespace.
	Hostname struct{ Name string }
	// Network enters a new network namespace that was made ahead, with lo up in it. Where the user namespace is somebody
	// else's, there is none ahead that it owns: then the child makes it and brings up lo.
	Network struct{ Here bool }
	// Private stops mounts from travelling between the child's mount namespace and the host's.
	Private struct{}
	// PlaceRoot attaches the prepared root and makes it the working directory: the part of [Root] that hooks come after.
	PlaceRoot struct{ Mountpoint string }
	// Root attaches the prepared root and makes it the root directory; the old root stays stacked on top of it.
	Root struct {
		Text       string // for people: where its layers are
		Mountpoint string // an empty host directory to attach it to, in the child's mount namespace only
		Placed     bool   // it is attached already
	}
	// Attach moves one more prepared mount into the root.
	Attach struct {
		Index  int // which of the descriptors of the root
		Target string
		Text   string
	}
	// Mount mounts a new file system at Target, which is created if missing.
	Mount struct {
		Type, Source, Target string
		Attr                 uint64   // MOUNT_ATTR_*, mount_setattr(2)
		Options              []string // of the file system
		Strict               bool     // a symbolic link anywhere in Target is refused
		Exists               bool     // Target is not created, and must be there
		Propagation          uint64   // MS_*, or 0
	}
	// Borrow picks up the host's own mount of a kernel file system, read-only, where the kernel does not let a user namespace
	// make one: the namespace that it shows is not the container's own.
	Borrow struct{ Type, Path string }
	// PlaceBorrowed attaches it.
	PlaceBorrowed struct{ Type, Target string }
	// DropOldRoot detaches the host's tree: from here on nothing of the host can be reached by any path.
	DropOldRoot struct{}
	// Stdio makes descriptors 0, 1 and 2: /dev/null or the input, and the log; or the terminal, which becomes the controlling one
	// unless it is Free: the first process of a system has none, and gives the console to whoever lets people log in there; or the
	// connection, twice, and the log.
	Stdio struct{ Terminal, Input, Free, Connection bool }
	// CloseRest marks every other descriptor close-on-exec.
	CloseRest struct{}
	// EnterMounts enters the mount namespace of a container that runs, to change something there.
	EnterMounts struct{}
	// Detach unmounts what is mounted at Target.
	Detach struct{ Target string }
	// Leave ends a child that has done what it was to do, without executing anything.
	Leave struct{}
	// Exec executes the first of Candidates that exists.
	Exec struct {
		Candidates []string
		Args, Env  []string
	}
)

// String joins the steps, one a line, numbered from 1 as error messages number them.
func String(steps []Step) string {
	var b strings.Builder
	for i, s := range steps {
		fmt.Fprintf(&b, "%2d %s\n", i+1, s)
	}
	return b.String()
}

func (s Fork) String() string {
	if s.Copy {
		return "fork with memory of its own, to enter namespaces"
	}
	return "fork, to enter namespaces"
}
func (s Join) String() string { return fmt.Sprintf("enter the %s namespace %s", s.Type, s.Text) }
func (s Clone) String() string {
	if len(s.Namespaces) == 0 {
		return "clone"
	}
	names := make([]string, len(s.Namespaces))
	for i, n := range s.Namespaces {
		names[i] = string(n)
	}
	return "clone with new namespaces: " + strings.Join(names, " ")
}
func (BecomeRoot) String() string {
	return "become uid 0 and gid 0 of the user namespace, without other groups"
}
func (Guard) String() string {
	return "guard against ptrace and dumps until exec, join a new session keyring"
}
func (s JoinCgroup) String() string {
	return strings.TrimSpace("join cgroup " + s.Path + " " + strings.Join(s.Limits, ", "))
}
func (CgroupNamespace) String() string { return "unshare the cgroup namespace" }
func (Session) String() string         { return "start a new session" }
func (s Hostname) String() string      { return "set hostname " + s.Name }
func (s Network) String() string {
	if s.Here {
		return "unshare the network namespace, bring up lo"
	}
	return "enter a new network namespace with lo up"
}
func (s Borrow) String() string { return "take from the host " + s.Path + ", read-only" }
func (s PlaceBorrowed) String() string {
	return fmt.Sprintf("bind the host's %s on %s", s.Type, s.Target)
}
func (Private) String() string  { return "make every mount private" }
func (s Root) String() string   { return "pivot to the root: " + s.Text }
func (s Attach) String() string { return "attach " + s.Text + " at " + s.Target }
func (s Mount) String() string {
	words := append(attrNames(s.Attr), s.Options...)
	return fmt.Sprintf("mount %s on %s (%s)", s.Type, s.Target, strings.Join(words, ","))
}
func (DropOldRoot) String() string { return "detach the host's tree" }
func (s Stdio) String() string {
	if s.Terminal && s.Free {
		return "connect stdin, stdout and stderr to the terminal, which stays free for others to control"
	}
	if s.Terminal {
		return "connect stdin, stdout and stderr to the terminal"
	}
	if s.Connection {
		return "connect stdin and stdout to the connection, stderr to the log"
	}
	if s.Input {
		return "connect stdin to its FIFO, stdout and stderr to the log"
	}
	return "connect stdin to /dev/null, stdout and stderr to the log"
}
func (CloseRest) String() string   { return "close every other descriptor at exec" }
func (EnterMounts) String() string { return "enter the container's mount namespace" }
func (s Detach) String() string    { return "unmount " + s.Target }
func (Leave) String() string       { return "leave" }
func (s Exec) String() string {
	if len(s.Candidates) == 0 {
		return "execute nothing: there is no cmd"
	}
	return fmt.Sprintf("execute %s with arguments %q", strings.Join(s.Candidates, " or "), s.Args)
}
