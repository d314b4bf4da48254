package plan

import (
	"fmt"
	"path"
	"slices"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// Terminal opens a terminal in the devpts that was mounted on /dev/pts, and shows it as /dev/console. Both are found by
// descriptors: what the root calls /dev/pts or /dev/console is not looked up (CVE-2025-52565). The program's end becomes the
// standard descriptors in [Stdio]; the other end goes to the keeper.
type Terminal struct {
	Size    engine.TerminalSize
	UID     uint32 // whose it is
	Mounted bool   // in the devpts that is mounted already, and without showing it as /dev/console
}

// ptsAt is where a terminal's devpts is mounted.
const ptsAt = "/dev/pts"

func (s Terminal) String() string {
	if s.Mounted {
		return fmt.Sprintf("open a terminal of %dx%d for user %d in what is mounted on /dev/pts", s.Size.Columns, s.Size.Rows, s.UID)
	}
	return fmt.Sprintf("open a terminal of %dx%d for user %d, bind it on /dev/console", s.Size.Columns, s.Size.Rows, s.UID)
}

// terminal is the step for the terminal, if there is to be one, after those that mount.
func terminal(c *engine.Config, mounted []Step) ([]Step, error) {
	size, wanted := c.Terminal()
	if !wanted {
		return nil, nil
	}
	has := slices.ContainsFunc(mounted, func(s Step) bool {
		m, ok := s.(Mount)
		return ok && m.Type == "devpts" && path.Clean(m.Target) == ptsAt
	})
	if !has {
		return nil, &engine.Error{Op: "start", File: "tty", Value: c.TTY(), Errno: syscall.EINVAL,
			Why:  "no devpts is mounted on /dev/pts, where terminals are",
			Cure: "mount one: echo 'devpts /dev/pts devpts newinstance,ptmxmode=0666,mode=0620,gid=5 0 0' >> mounts; or write 0"}
	}
	return []Step{Terminal{size, c.Spec.Process.User.UID, false}}, nil
}
