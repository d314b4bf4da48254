package engine

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSettings writes values through the setters and compares what is read back, or the errno of the refusal.
func TestSettings(t *testing.T) {
	cmd := func(c *Config, v string) (string, error) { err := c.SetCmd(v); return c.Cmd(), err }
	env := func(c *Config, v string) (string, error) {
		err := c.SetEnv(strings.Split(v, "\n"))
		return strings.Join(c.Env(), "\n"), err
	}
	cwd := func(c *Config, v string) (string, error) { err := c.SetCwd(v); return c.Cwd(), err }
	host := func(c *Config, v string) (string, error) {
		err := c.SetHostname(v)
		return c.EffectiveHostname("own"), err
	}
	root := func(c *Config, v string) (string, error) { err := c.SetRootfs(v); return c.Rootfs(), err }
	mode := func(c *Config, v string) (string, error) {
		err := c.SetRootMode(RootMode(v))
		return string(c.RootMode()), err
	}
	tty := func(c *Config, v string) (string, error) { err := c.SetTTY(v); return c.TTY(), err }
	signal := func(c *Config, v string) (string, error) { err := c.SetStopSignal(v); return c.StopSignal(), err }
	oom := func(c *Config, v string) (string, error) { err := c.SetOOM(v); return string(c.OOM()), err }
	health := func(c *Config, v string) (string, error) {
		key, value, _ := strings.Cut(v, " ")
		err := c.SetHealth(key, value)
		return c.HealthValue(key), err
	}
	logMax := func(c *Config, v string) (string, error) {
		n, _ := strconv.ParseInt(v, 10, 64)
		err := c.SetLogMax(n)
		return strconv.FormatInt(c.LogMax(), 10), err
	}
	restart := func(c *Config, v string) (string, error) { err := c.SetRestart(v); return c.Restart().String(), err }
	pressure := func(c *Config, v string) (string, error) {
		err := c.SetPressure("memory.pressure", v)
		return c.Pressure("memory.pressure"), err
	}
	cases := []struct {
		name    string
		set     func(*Config, string) (string, error)
		in, out string
		errno   syscall.Errno
	}{
		{"cmd", cmd, `sh -c "echo hi; exit 7"`, `sh -c 'echo hi; exit 7'`, 0},
		{"cmd", cmd, `a\ b 'c d' "e'f"`, `'a b' 'c d' e\'f`, 0},
		{"cmd", cmd, `$HOME *.c | # ~`, `\$HOME \*.c \| # \~`, 0},
		{"cmd", cmd, ``, ``, 0},
		{"cmd", cmd, `echo "unbalanced`, ``, syscall.EINVAL},
		{"cmd", cmd, `echo 'unbalanced`, ``, syscall.EINVAL},
		{"cmd", cmd, `"" x`, ``, syscall.EINVAL},
		{"env", env, "A=1\nB=two words\nA=3", "A=3\nB=two words", 0},
		{"env", env, "A=", "A=", 0},
		{"env", env, "A=1\nnovalue", "", syscall.EINVAL},
		{"env", env, "=1", "", syscall.EINVAL},
		{"restart", restart, "no", "no", 0},
		{"restart", restart, "on-failure", "on-failure", 0},
		{"restart", restart, "on-failure:07", "on-failure:7", 0},
		{"restart", restart, "always", "always", 0},
		{"restart", restart, "unless-stopped", "unless-stopped", 0},
		{"restart", restart, "", "no", syscall.EINVAL},
		{"restart", restart, "on-failure:0", "no", syscall.EINVAL},
		{"restart", restart, "on-failure:-1", "no", syscall.EINVAL},
		{"restart", restart, "on-failure:4294967296", "no", syscall.EINVAL},
		{"restart", restart, "always:1", "no", syscall.EINVAL},
		{"restart", restart, "Always", "no", syscall.EINVAL},
		{"health", health, "cmd sh -c 'a  b'", "sh -c 'a  b'", 0},
		{"health", health, "cmd ", "", 0},
		{"health", health, "cmd 'open", "", syscall.EINVAL},
		{"health", health, "cmd '' x", "", syscall.EINVAL},
		{"health", health, "interval 86400", "86400", 0},
		{"health", health, "interval ", "30", 0},
		{"health", health, "interval 86401", "30", syscall.EINVAL},
		{"health", health, "timeout 0", "30", syscall.EINVAL},
		{"health", health, "start-period 0", "0", 0},
		{"health", health, "start-period -1", "0", syscall.EINVAL},
		{"health", health, "action restart", "restart", 0},
		{"health", health, "action ", "none", 0},
		{"health", health, "action reboot", "none", syscall.EINVAL},
		{"log.max", logMax, "4096", "4096", 0},
		{"log.max", logMax, "-1", "-1", 0},
		{"log.max", logMax, "16777216", "16777216", 0},
		{"log.max", logMax, "4095", "16777216", syscall.EINVAL},
		{"log.max", logMax, "-2", "16777216", syscall.EINVAL},
		{"cwd", cwd, "/a/../b//c/", "/b/c", 0},
		{"cwd", cwd, "relative", "", syscall.EINVAL},
		{"hostname", host, "web-1.example", "web-1.example", 0},
		{"hostname", host, "", "own", 0},
		{"hostname", host, "two words", "", syscall.EINVAL},
		{"hostname", host, strings.Repeat("x", 65), "", syscall.EINVAL},
		{"rootfs", root, "host", "host", 0},
		{"rootfs", root, "/srv//root/", "/srv/root", 0},
		{"rootfs", root, "srv//root/", "srv/root", 0},
		{"rootfs", root, "./host", "./host", 0},
		{"rootfs", root, "", "", syscall.EINVAL},
		{"tty", tty, "0", "0", 0},
		{"tty", tty, "1", "1", 0},
		{"tty", tty, "80x24", "80x24", 0},
		{"tty", tty, "65535x1", "65535x1", 0},
		{"tty", tty, "65536x1", "", syscall.EINVAL},
		{"tty", tty, "1x65536", "", syscall.EINVAL},
		{"tty", tty, "0x24", "", syscall.EINVAL},
		{"tty", tty, "80x024", "", syscall.EINVAL},
		{"tty", tty, "80X24", "", syscall.EINVAL},
		{"tty", tty, "80x24x1", "", syscall.EINVAL},
		{"tty", tty, "yes", "", syscall.EINVAL},
		{"rootfs.mode", mode, "volatile", "volatile", 0},
		{"rootfs.mode", mode, "readonly", "", syscall.EINVAL},
		{"memory.oom", oom, "freeze", "freeze", 0},
		{"memory.oom", oom, "stop", "stop", 0},
		{"memory.oom", oom, "kill", "kill", 0},
		{"memory.oom", oom, "panic", "", syscall.EINVAL},
		{"memory.pressure", pressure, "some 150000 2000000", "some 150000 2000000", 0},
		{"memory.pressure", pressure, " full\t1  500000\n", "full 1 500000", 0},
		{"memory.pressure", pressure, "\n", "", 0},
		{"memory.pressure", pressure, "some 500000 500000", "some 500000 500000", 0},
		{"memory.pressure", pressure, "some 500001 500000", "", syscall.EINVAL},
		{"memory.pressure", pressure, "some 0 500000", "", syscall.EINVAL},
		{"memory.pressure", pressure, "some 1 499999", "", syscall.EINVAL},
		{"memory.pressure", pressure, "some 1 10000001", "", syscall.EINVAL},
		{"memory.pressure", pressure, "most 1 1000000", "", syscall.EINVAL},
		{"memory.pressure", pressure, "some 1", "", syscall.EINVAL},
		{"memory.pressure", pressure, "some -1 1000000", "", syscall.EINVAL},
		{"memory.pressure", pressure, "some 1 1000000\nfull 1 1000000", "", syscall.EINVAL},
		{"stop.signal", signal, "sigint", "INT", 0},
		{"stop.signal", signal, "37", "RTMIN+3", 0},
		{"stop.signal", signal, "NOPE", "", syscall.EINVAL},
	}
	for _, c := range cases {
		t.Run(c.name+" "+c.in, func(t *testing.T) {
			out, err := c.set(NewConfig(), c.in)
			if Errno(err) != c.errno {
				t.Fatalf("got error %v, want errno %v", err, c.errno)
			}
			if err == nil && out != c.out {
				t.Errorf("reads back %q, want %q", out, c.out)
			}
		})
	}
}

// TestRefusedChangesNothing: a setter that refuses leaves the configuration alone.
func TestRefusedChangesNothing(t *testing.T) {
	c := NewConfig()
	before, err := c.OCI(Automatic{})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		c.SetCmd(`"`), c.SetEnv([]string{"A"}), c.SetCwd("x"), c.SetHostname("a b"), c.SetRootfs(""), c.SetRootMode("x"),
		c.SetTTY("x"), c.SetStopSignal("x"), c.SetPidsMax(pidsLimit + 1), c.SetCPUMax(1, 1), c.SetCPUMax(1, 1000), c.SetCPUWeight(0),
		c.SetCPUWeight(10001),
	} {
		if Errno(err) != syscall.EINVAL {
			t.Errorf("got %v, want EINVAL", err)
		}
	}
	after, err := c.OCI(Automatic{})
	if err != nil || string(after) != string(before) {
		t.Errorf("a refused value changed the configuration (%v):\n%s", err, after)
	}
}

func TestLimits(t *testing.T) {
	c := NewConfig()
	if c.MemoryMax() != Max || c.PidsMax() != Max || c.CPUWeight() != 100 {
		t.Error("a new configuration has limits")
	}
	for _, in := range []int64{0, 4096, 1 << 40, Max} {
		if err := c.SetMemoryMax(in); err != nil || c.MemoryMax() != in {
			t.Errorf("memory.max %d reads back %d (%v)", in, c.MemoryMax(), err)
		}
	}
	if c.SetMemoryMax(8191); c.MemoryMax() != 4096 {
		t.Errorf("memory.max is not rounded to a page: %d", c.MemoryMax())
	}
	for weight := int64(minWeight); weight <= maxWeight; weight++ {
		if err := c.SetCPUWeight(weight); err != nil || c.CPUWeight() != weight {
			t.Fatalf("cpu.weight %d reads back %d (%v)", weight, c.CPUWeight(), err)
		}
	}
	if err := c.SetCPUMax(20000, 100000); err != nil {
		t.Fatal(err)
	}
	if q, p := c.CPUMax(); q != 20000 || p != 100000 {
		t.Errorf("cpu.max reads back %d %d", q, p)
	}
	if c.CPUWeight() != maxWeight {
		t.Error("cpu.max changed cpu.weight")
	}
}

// TestCloneIsApart: whatever a setter does to a clone, the original does not see it.
func TestCloneIsApart(t *testing.T) {
	c := NewConfig()
	for _, err := range []error{c.SetMemoryMax(1 << 20), c.SetPidsMax(5), c.SetCPUWeight(5)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before, _ := c.OCI(Automatic{})
	d := c.Clone()
	d.SetCmd("a b")
	d.SetEnv([]string{"A=1"})
	d.SetCwd("/tmp")
	d.SetHostname("h")
	d.SetRootfs("/srv")
	d.SetRootMode(RootReadOnly)
	d.SetMemoryMax(2 << 20)
	d.SetPidsMax(6)
	d.SetCPUWeight(6)
	d.SetCPUMax(5000, 50000)
	d.SetStopSignal("INT")
	after, _ := c.OCI(Automatic{})
	if string(before) != string(after) {
		t.Errorf("the original changed:\n%s", after)
	}
}

func TestValidateName(t *testing.T) {
	for _, good := range []string{"a", "0", "web-1", "A.b_c", strings.Repeat("x", 63)} {
		if err := ValidateName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ".", "..", "-a", "_a", ".a", "a/b", "a b", "ä", "a\x00", strings.Repeat("x", 64)} {
		if Errno(ValidateName(bad)) != syscall.EINVAL {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestSignals(t *testing.T) {
	for text, want := range map[string]syscall.Signal{"9": 9, "KILL": 9, "sigterm": 15, "RTMIN": 34, "RTMIN+3": 37, "RTMAX-1": 63, "64": 64} {
		if got, err := ParseSignal("kill", text); err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "65", "-1", "RTMIN-1", "RTMAX+1", "RTMIN+", "TERM ", "RT"} {
		if got, err := ParseSignal("kill", text); Errno(err) != syscall.EINVAL {
			t.Errorf("%q is taken as %d", text, got)
		}
	}
	for sig := syscall.Signal(1); sig <= sigRTMax; sig++ {
		if back, err := ParseSignal("kill", SignalName(sig)); err != nil || back != sig {
			t.Errorf("%d is named %s, which is %d (%v)", sig, SignalName(sig), back, err)
		}
	}
}

// TestTransitions checks the whole square: what the table allows, and that nothing else is.
func TestTransitions(t *testing.T) {
	all := []State{Created, Listening, Running, Paused, Stopping, Exited}
	allowed := map[string]bool{
		"created running": true, "created listening": true, "listening running": true, "listening exited": true,
		"listening created": true, "running paused": true, "running stopping": true, "running exited": true,
		"paused running": true, "paused stopping": true, "paused exited": true, "stopping exited": true,
		"exited running": true, "exited listening": true,
		"running listening": true, "paused listening": true, "stopping listening": true,
	}
	for _, from := range all {
		for _, to := range all {
			if got := from.To(to); got != allowed[string(from+" "+to)] {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
	}
}

func TestErrorKeepsErrnoAndSentence(t *testing.T) {
	cause := errors.New("the cause")
	err := error(&Error{Op: "write", File: "memory.max", Value: "12x\n", Errno: syscall.EINVAL, Why: "not a size", Cure: "write 256M", Err: cause})
	if got, want := err.Error(), `write memory.max "12x": not a size: the cause; write 256M`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	wrapped := errors.Join(errors.New("outside"), err)
	if Errno(wrapped) != syscall.EINVAL || !errors.Is(wrapped, cause) || !errors.Is(wrapped, syscall.EINVAL) {
		t.Error("the errno or the cause is lost")
	}
	if Errno(errors.New("no errno")) != syscall.EIO || Errno(nil) != 0 {
		t.Error("what has no errno is not EIO, or nothing is something")
	}
}

func TestExitCodes(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		exit Exit
		want string
	}{
		{Exit{}, ""}, {Exit{Finished: now}, "0"}, {Exit{Finished: now, Status: 7 << 8}, "7"},
		{Exit{Finished: now, Status: 9}, "137"}, {Exit{Finished: now, Unknown: true}, "unknown"},
	} {
		if got := c.exit.Code(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.exit, got, c.want)
		}
	}
}

func FuzzCmd(f *testing.F) {
	for _, s := range []string{`sh -c "echo hi"`, `a\ b`, `'`, `"$x"`, "a\nb", ``} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := NewConfig()
		if c.SetCmd(text) != nil {
			return
		}
		d := NewConfig()
		if err := d.SetCmd(c.Cmd()); err != nil {
			t.Fatalf("%q reads back as %q, which is refused: %v", text, c.Cmd(), err)
		}
		if d.Cmd() != c.Cmd() || len(d.Spec.Process.Args) != len(c.Spec.Process.Args) {
			t.Errorf("%q does not round trip: %q, then %q", text, c.Cmd(), d.Cmd())
		}
	})
}

func FuzzSignal(f *testing.F) {
	f.Add("TERM")
	f.Add("RTMIN+3")
	f.Fuzz(func(t *testing.T, text string) {
		if sig, err := ParseSignal("kill", text); err == nil && (sig < 1 || sig > sigRTMax) {
			t.Errorf("%q is %d", text, sig)
		}
	})
}
