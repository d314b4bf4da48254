package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
)

// The steps of a program that a connection has launched.
type (
	// Listen makes the sockets that wait for connections the descriptors 3, 4, … of the program, closes every other one, and writes the
	// program's pid, as it counts itself, into LISTEN_PID: sd_listen_fds(3).
	Listen struct{ Sockets int }
	// Await executes the reaper at PID 1 without a program of its own: those come with connections, and the reaper waits for a signal.
	Await struct{}
)

func (s Listen) String() string {
	return fmt.Sprintf("connect sockets to descriptors from 3 on, %d of them; close every other at exec; tell the program its pid", s.Sockets)
}
func (Await) String() string {
	return "become the reaper, which waits for programs that connections come with"
}

// ListenPID stands in the environment of a program that gets sockets until it is known which pid that has.
const ListenPID = listenPID + "          "

const listenPID = "LISTEN_PID="

// ListenDigits is where the pid goes in it, and how many digits there is room for.
const (
	ListenDigitsAt = len(listenPID)
	ListenDigits   = len(ListenPID) - len(listenPID)
)

// listening changes the last steps of a plan, and the environment of its program, for one that gets the sockets themselves.
func listening(c *engine.Config, name string, last []Step, env []string) ([]Step, []string) {
	all := c.Listeners()
	if len(all) == 0 || c.Inetd() {
		return last, env
	}
	names := make([]string, len(all))
	for i, l := range all {
		if names[i] = l.Name; l.Name == "" {
			names[i] = name
		}
	}
	last = slices.Clone(last)
	for i, s := range last {
		if s == (CloseRest{}) {
			last[i] = Listen{len(all)}
		}
	}
	env = slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		return strings.HasPrefix(e, listenPID) || strings.HasPrefix(e, "LISTEN_FDS=") || strings.HasPrefix(e, "LISTEN_FDNAMES=")
	})
	return last, append(env, fmt.Sprintf("LISTEN_FDS=%d", len(all)), "LISTEN_FDNAMES="+strings.Join(names, ":"), ListenPID)
}
