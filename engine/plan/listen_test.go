package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/ctrfs/ctrfs/engine"
)

// TestGoldenListen: a program that gets sockets, and PID 1 and a program of one where each connection has its own.
func TestGoldenListen(t *testing.T) {
	listen := func(lines ...string) func(*engine.Config) {
		return func(c *engine.Config) {
			if err := c.SetListen(lines); err != nil {
				t.Fatal(err)
			}
		}
	}
	golden(t, "listen", configured(t, listen("tcp 80", "unix /run/web.sock fds local")), testHost)
	golden(t, "listen_init", configured(t, func(c *engine.Config) {
		listen("tcp 80")(c)
		c.SetInit(true)
	}), testHost)
	c := configured(t, listen("tcp 80 inetd"))
	golden(t, "inetd", c, testHost)
	h := testHost
	h.Connection = true
	steps, err := Enter(c, h)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "inetd_enter", String(steps))
}

// TestListenEnvironment: what the configuration says of the three variables does not reach a program that gets sockets.
func TestListenEnvironment(t *testing.T) {
	c := configured(t, func(c *engine.Config) {
		c.SetListen([]string{"tcp 80", "tcp 81 fds b"})
		c.Spec.Process.Env = []string{"A=1", "LISTEN_PID=1", "LISTEN_FDS=9", "LISTEN_FDNAMES=x", "LISTEN=yes"}
	})
	steps, err := Build(c, testHost)
	if err != nil {
		t.Fatal(err)
	}
	env := steps[len(steps)-1].(Exec).Env
	want := []string{"A=1", "LISTEN=yes", "LISTEN_FDS=2", "LISTEN_FDNAMES=" + testHost.Name + ":b", ListenPID}
	if !slices.Equal(env, want) {
		t.Errorf("%q, wanted %q", env, want)
	}
	if !strings.HasPrefix(ListenPID[:ListenDigitsAt], "LISTEN_PID=") || strings.TrimSpace(ListenPID[ListenDigitsAt:]) != "" || len(ListenPID) != ListenDigitsAt+ListenDigits {
		t.Errorf("%q has no room for a pid", ListenPID)
	}
	if len(c.Spec.Process.Env) != 5 {
		t.Error("the configuration has changed")
	}
}
