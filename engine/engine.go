package engine

import (
	"context"
	"io"
	"syscall"
	"time"
)

// Caller is who performs an operation, as the kernel reported it with the request.
type Caller struct {
	UID, GID uint32
	PID      uint32 // in the pid namespace of the mount; 0 when it is in another one
}

// Owner is the owner and the permission bits of a directory or a file of the tree.
type Owner struct {
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Mode uint32 `json:"mode"` // permission bits only
}

// Feature is one line of the host file: something that containers may need and what this host says about it.
type Feature struct {
	Name   string // "userns", "cgroup"
	Value  string // "yes", "hybrid", "no"
	Reason string // why not, and the cure; empty when there is nothing to say
}

// Process is one process of a container, read from the host's procfs.
type Process struct {
	Container string // path of the container below the mount
	PID       int    // as the host counts
	Inner     int    // as the container counts
	User      string // numeric user id as the container counts, or on the host when it has no number inside
	State     string // one letter, as ps(1) shows it
	RSS       uint64 // bytes
	CPU       time.Duration
	Command   string
}

// Stat is one counter or gauge of a container: a line of its stats file.
type Stat struct {
	Name  string // "cpu.usage_usec"
	Value uint64
}

// Engine is a hierarchy of containers. All methods may be called concurrently; none but [Container.Wait] and
// [Events.Next] blocks for longer than the file system and the kernel take for one operation.
type Engine interface {
	Images
	Networks
	// Children lists the containers directly below parent, sorted by name; a nil parent is the root.
	Children(parent Container) []Container
	// Child finds one of them.
	Child(parent Container, name string) (Container, bool)
	// Create makes a container. Errors: EINVAL (name), EEXIST, ENOSPC, EPERM.
	Create(by Caller, parent Container, name string, owner Owner) (Container, error)
	// Remove removes a container with everything it owned. Errors: EBUSY while anything in it lives or it has children.
	Remove(by Caller, c Container) error
	// Rename moves a container to another name, and to another parent while it does not run. Errors: EBUSY, EEXIST, EINVAL.
	Rename(by Caller, c Container, parent Container, name string) error
	// RootOwner and SetRootOwner are the owner and mode of the mount's own directory.
	RootOwner() Owner
	SetRootOwner(Owner) error
	// Features is the content of the host file.
	Features() []Feature
	// Events subscribes to what happens from now on to a container and to all below it; nil is every container. The caller
	// closes the subscription.
	Events(of Container) Events
}

// View is one consistent moment of a container. It is a copy: nobody changes it afterwards.
type View struct {
	ID       string
	Name     string
	Path     string // below the mount, "pod/web"
	Config   *Config
	State    State
	PID      int       // host pid of PID 1; 0 when there is none
	Started  time.Time // when PID 1 was executed, the last time; zero before the first
	Exit     Exit      // the last exit
	OOM      bool      // memory has run out since Started, in the run that goes on
	Failure  string    // the content of the error file, without the newline
	Restarts int       // by the restart policy, since the user started it
	Health   HealthView
	Due      time.Time // when the next one is; zero when there will be none
	Changed  time.Time // when configuration or state last changed
}

// Program is what is configured, started and waited for: a container, or an exec in one. Its methods may be called concurrently;
// actions on one program wait for each other, reads wait for nobody.
type Program interface {
	View() *View
	// Generation changes whenever the view does: a cheap test whether text made from it is still true.
	Generation() uint64
	// Owner is the owner and mode of the directory (file == "") or of one file whose bits somebody changed.
	Owner(file string) (Owner, bool)
	// SetOwner changes and keeps them.
	SetOwner(file string, o Owner) error

	// Update changes the configuration, all or nothing: change gets a copy; when it returns nil and the result is valid,
	// the copy is applied to the running program where it must be, kept on disk, and becomes the configuration. With
	// live false the answer is EBUSY while the program is active. file names the setting, for the error.
	Update(by Caller, file string, live bool, change func(*Config) error) error
	// Fail puts the sentence of a refused operation into the error file.
	Fail(err error)

	// Start launches the program and returns once it has been executed. On failure everything is undone.
	Start(by Caller) error
	// Kill sends a signal to PID 1, or to an exec's first process.
	Kill(by Caller, sig syscall.Signal) error
	// Wait blocks until the program is not active and no restart is due, and returns how it exited. It ends early with ctx's error.
	Wait(ctx context.Context) (Exit, error)
	// Plan returns the steps that Start takes or took, one a line.
	Plan() (string, error)
	// Console returns a terminal of this machine's that stands for the program's, and whether there is one: while it runs on one.
	Console() (device string, ok bool)
	// Input returns the FIFO that is the program's standard input, and whether there is one.
	Input() (file string, open bool)
	// Log opens what the program wrote. Its size is true and grows.
	Log() (Log, error)
}

// Container is one container: the program that is its PID 1, and all that runs with it.
type Container interface {
	Program

	// Automatic is what a start supplies where the configuration leaves it the choice: what the container has, or would get.
	Automatic() (Automatic, error)
	// Stop sends the stop signal and returns; KILL follows after the stop timeout. It also calls off a restart that is due. back
	// says that this is for the time without a mount: the restart policy starts the container again at the next one.
	Stop(by Caller, back bool) error

	// Commit begins to make an image of the container's files as they are at this moment; one of that name gets another content.
	// Errors: EINVAL (name), EBUSY (something is under way with that image), EOPNOTSUPP (there is no root of its own).
	Commit(by Caller, image string) error

	// ReadControl reads a resource file by its cgroup v2 name ("memory.current"). Errors: EOPNOTSUPP where the host has
	// no such thing.
	ReadControl(file string) (string, error)
	// WriteControl performs a cgroup action: "cgroup.procs", "cgroup.freeze", "cgroup.kill".
	WriteControl(by Caller, file, value string) error
	// Stats are the numbers of the stats file, in a stable order; one call is one sample.
	Stats() []Stat
	// Processes lists what runs in the container and below it.
	Processes() ([]Process, error)
	// NamespaceLink returns a path that stands for the container's namespace of a kind, by its name in [Namespaces]: what
	// setns(2) can open, on this machine, at this moment. There is none while nothing runs and nothing holds it.
	NamespaceLink(name string) (target string, ok bool)

	// Changes opens the list of what has been changed of the root, made at that moment, and ChangesSize is how long such a list is,
	// or was not long ago.
	Changes() (Log, error)
	ChangesSize() (int64, error)
	// Root returns a path that stands for the container's root, and whether there is one. OpenRoot makes one that leads there, on
	// this machine: of a container that does not run, to what its program would find, for a minute, until something changes.
	Root() (path string, ok bool)
	OpenRoot() (path string, err error)

	// Net tells of the links of its networks while it runs, and NetStats of what went through them, as "eth0.rx_bytes", in a stable
	// order; nil otherwise.
	Net() []NetLink
	NetStats() []Stat

	// Execs lists the further programs of the container, sorted by name.
	Execs() []Exec
	// Exec finds one of them.
	Exec(name string) (Exec, bool)
	// AddExec makes one. Errors: EINVAL (name), EEXIST, ENOSPC, EPERM.
	AddExec(by Caller, name string, owner Owner) (Exec, error)
	// RemoveExec removes one. Errors: EBUSY while it runs.
	RemoveExec(by Caller, x Exec) error
}

// Exec is a further program in a container that runs, with the rights of the container and no others. Its view is as a
// container's; the configuration in it is the container's, but for what the exec says of its own process.
type Exec interface {
	Program
	// Inherited is what its configuration is where nobody has set anything: the container's, without a program.
	Inherited() *Config
}

// Log is an open log file. It follows the container: after the next start it reads the new log.
type Log interface {
	// ReadAt reads in order, or at true offsets. What was taken out, to keep it within log.max, has left a gap: whoever begins at 0
	// begins behind it instead, and so does everything up to the end then come earlier.
	io.ReaderAt
	io.Closer
	// ReadPage reads at true offsets, in any order: EINVAL when something has been taken out.
	ReadPage(b []byte, off int64) (int, error)
	// Size is the length in bytes at that moment.
	Size() (int64, error)
}
