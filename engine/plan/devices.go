package plan

import "strings"

// The steps that show and hide single files.
type (
	// TakeDevices picks up the host's own device nodes while the host's /dev is still in sight.
	TakeDevices struct{ Paths []string }
	// PlaceDevices binds the nodes of [TakeDevices] into /dev.
	PlaceDevices struct{ Paths []string }
	// Link makes a symbolic link unless something is there already.
	Link struct{ Target, Path string }
	// ReadOnly makes a path read-only, with everything mounted below it.
	ReadOnly struct{ Path string }
	// Mask hides a file behind /dev/null, a directory behind an empty one.
	Mask struct{ Path string }
)

func (s TakeDevices) String() string  { return "take from the host " + strings.Join(s.Paths, " ") }
func (s PlaceDevices) String() string { return "bind " + strings.Join(s.Paths, " ") }
func (s Link) String() string         { return "link " + s.Path + " -> " + s.Target }
func (s ReadOnly) String() string     { return "make read-only " + s.Path }
func (s Mask) String() string         { return "mask " + s.Path }

// deviceNodes are the customary nodes of /dev, bound from the host's.
var deviceNodes = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// deviceLinks are the customary links of /dev.
var deviceLinks = []Link{
	{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"}, {"pts/ptmx", "/dev/ptmx"},
}
