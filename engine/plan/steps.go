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
	// Clone makes the child, with these namespaces of its own. It is always the first step.
	Clone struct{ Namespaces []specs.LinuxNamespaceType }
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
	// Network enters a new network namespace that was made ahead, with lo up in it.
	Network struct{}
	// Private stops mounts from travelling between the child's mount namespace and the host's.
	Private struct{}
	// Root attaches the prepared root and makes it the root directory; the old root stays stacked on top of it.
	Root struct {
		Text       string // for people: where its layers are
		Mountpoint string // an empty host directory to attach it to, in the child's mount namespace only
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
	}
	// DropOldRoot detaches the host's tree: from here on nothing of the host can be reached by any path.
	DropOldRoot struct{}
	// Stdio makes descriptors 0, 1 and 2: /dev/null and the log.
	Stdio struct{}
	// CloseRest marks every other descriptor close-on-exec.
	CloseRest struct{}
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

func (s Clone) String() string {
	names := make([]string, len(s.Namespaces))
	for i, n := range s.Namespaces {
		names[i] = string(n)
	}
	return "clone with new namespaces: " + strings.Join(names, " ")
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
func (Network) String() string         { return "enter a new network namespace with lo up" }
func (Private) String() string         { return "make every mount private" }
func (s Root) String() string          { return "pivot to the root: " + s.Text }
func (s Attach) String() string        { return "attach " + s.Text + " at " + s.Target }
func (s Mount) String() string {
	words := append(attrNames(s.Attr), s.Options...)
	return fmt.Sprintf("mount %s on %s (%s)", s.Type, s.Target, strings.Join(words, ","))
}
func (DropOldRoot) String() string { return "detach the host's tree" }
func (Stdio) String() string       { return "connect stdin to /dev/null, stdout and stderr to the log" }
func (CloseRest) String() string   { return "close every other descriptor at exec" }
func (s Exec) String() string {
	if len(s.Candidates) == 0 {
		return "execute nothing: there is no cmd"
	}
	return fmt.Sprintf("execute %s with arguments %q", strings.Join(s.Candidates, " or "), s.Args)
}
