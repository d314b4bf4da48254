package engine

import (
	"strings"
	"syscall"
	"testing"
)

func TestListen(t *testing.T) {
	for text, want := range map[string]string{
		"tcp 127.0.0.1:80":              "tcp 127.0.0.1:80",
		"tcp 80":                        "tcp 127.0.0.1:80",
		"tcp :80 fds":                   "tcp 127.0.0.1:80",
		"tcp *:80":                      "tcp 0.0.0.0:80",
		"udp [::1]:53 fds dns":          "udp [::1]:53 fds dns",
		"tcp [::ffff:127.0.0.1]:80":     "tcp 127.0.0.1:80",
		"tcp [fe80::1%eth0]:80 web":     "tcp [fe80::1%eth0]:80 fds web",
		"  tcp\t80   inetd  max=3 ":     "tcp 127.0.0.1:80 inetd max=3",
		"tcp 80 inetd max=64":           "tcp 127.0.0.1:80 inetd",
		"unix /run/a.sock":              "unix /run/a.sock",
		"unix /run/a.sock mode=600 one": "unix /run/a.sock fds mode=0600 one",
		"unix /run/a.sock inetd":        "unix /run/a.sock inetd",
		"unix-dgram /run/log mode=0666": "unix-dgram /run/log",
	} {
		l, err := ParseListener(text)
		if err != nil || l.String() != want {
			t.Errorf("%q is %q (%v), wanted %q", text, l, err, want)
		}
	}
	for _, text := range []string{
		"", "tcp", "80", "sctp 80", "tcp 0", "tcp 65536", "tcp localhost:80", "tcp 127.0.0.1", "tcp 1.2.3.4:80 fds two names", "tcp 80 inetd name",
		"tcp 80 max=3", "tcp 80 inetd max=0", "tcp 80 inetd max=x", "tcp 80 mode=600", "udp 80 inetd", "unix-dgram /a inetd", "unix run/a", "unix @a",
		"unix /", "unix /a/../b", "unix /a/", "unix /" + strings.Repeat("a", 107), "unix /a mode=1777", "unix /a mode=9", "unix /a a:b", "unix /a \x01",
		"unix /a " + strings.Repeat("a", 256),
	} {
		if l, err := ParseListener(text); Errno(err) != syscall.EINVAL {
			t.Errorf("%q is taken as %q (%v)", text, l, err)
		}
	}
}

func TestListenTogether(t *testing.T) {
	c := NewConfig()
	for _, lines := range [][]string{{"tcp 80", "tcp 127.0.0.1:80"}, {"tcp 80", "tcp 81 inetd"}} {
		if err := c.SetListen(lines); Errno(err) != syscall.EINVAL {
			t.Errorf("%q: %v", lines, err)
		}
	}
	if err := c.SetListen(make([]string, ListenMax+1)); err == nil {
		t.Error("too many are taken")
	}
	if err := c.SetListen([]string{"tcp 80", "udp 80", "unix /a"}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetListen([]string{"tcp 80 inetd"}); err != nil || !c.Inetd() {
		t.Fatal(err)
	}
	c.SetTTY("1")
	if err := c.Validate(); Errno(err) != syscall.EINVAL {
		t.Errorf("a terminal and a connection: %v", err)
	}
	for seconds, want := range map[int64]syscall.Errno{0: 0, 86400: 0, -1: syscall.EINVAL, idleMax + 1: syscall.EINVAL} {
		if err := c.SetIdle(seconds); Errno(err) != want {
			t.Errorf("%d: %v", seconds, err)
		}
	}
}

func TestListenOCI(t *testing.T) {
	c := NewConfig()
	lines := []string{"tcp 127.0.0.1:80 fds web", "unix /run/a.sock fds mode=0600 local"}
	if err := c.SetListen(lines); err != nil {
		t.Fatal(err)
	}
	c.SetIdle(30)
	text, err := c.OCI(Automatic{})
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseOCI(text)
	if err != nil || strings.Join(back.Listen(), "\n") != strings.Join(lines, "\n") || back.Idle() != 30 {
		t.Errorf("%q, %d (%v)", back.Listen(), back.Idle(), err)
	}
}

func FuzzListen(f *testing.F) {
	for _, s := range []string{"tcp 127.0.0.1:80 fds web", "tcp [fe80::1%eth0]:80 inetd max=7", "unix /run/a mode=600", "udp :53"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseListener(text)
		if err != nil {
			return
		}
		if back, err := ParseListener(l.String()); err != nil || back != l {
			t.Errorf("%q is %q, which is %q (%v)", text, l, back, err)
		}
	})
}
