package engine

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

func TestNetworkSettings(t *testing.T) {
	c := NewConfig()
	for _, x := range []struct {
		name, value, want string
		errno             syscall.Errno
	}{
		{"eth0", "5", "[eth0 5]", 0}, {"br-1.2", "4294967295", "[br-1.2 4294967295 eth0 5]", 0}, {"eth0", "6", "[br-1.2 4294967295 eth0 6]", 0},
		{"eth0", "0", "[br-1.2 4294967295]", 0}, {"br-1.2", "", "[]", 0},
		{"", "5", "[]", syscall.EINVAL}, {"a/b", "5", "[]", syscall.EINVAL}, {"abcdefghijklmnop", "1", "[]", syscall.EINVAL}, {"lo", "-1", "[]", syscall.EINVAL},
		{"lo", "4294967296", "[]", syscall.EINVAL}, {"lo", "x", "[]", syscall.EINVAL},
	} {
		before := c.Clone()
		if err := c.SetNetPriority(x.name, x.value); x.errno == 0 && err != nil || x.errno != 0 && !errors.Is(err, x.errno) {
			t.Errorf("%q %q: %v", x.name, x.value, err)
		}
		if got := fmt.Sprint(c.NetPriorities()); got != x.want {
			t.Errorf("%q %q: %s, want %s", x.name, x.value, got, x.want)
		}
		_ = before.SetNetPriority("lo", "9") // what it was cloned from must not notice
		if got := fmt.Sprint(c.NetPriorities()); got != x.want {
			t.Errorf("a clone's change shows: %s", got)
		}
	}
	if c.Spec.Linux.Resources.Network != nil {
		t.Error("nothing is set, and something is left")
	}
	for id, ok := range map[int64]bool{0: true, 1<<32 - 1: true, 1 << 32: false, -1: false} {
		if err := c.SetNetClassID(id); (err == nil) != ok || ok && int64(c.NetClassID()) != id {
			t.Errorf("%d: %v, %d", id, err, c.NetClassID())
		}
	}
}

func TestDeviceLists(t *testing.T) {
	for list, want := range map[string]string{
		"": "", "a": AllDevices, "c 1:3 r\nc 1:3 w": "c 1:3 rw", "c 1:3 wm\nb 7:* r\nc 1:3 r": "b 7:* r\nc 1:3 rwm", "c 1:3 rwm\na *:* rwm": AllDevices, "nonsense\nc 1:3 -": "",
	} {
		rules := ParseDeviceList(list)
		for i := range rules {
			if rules[i].Access == noAccess {
				rules[i].Access = ""
			}
		}
		if got := FormatDeviceList(rules); got != want && got != want+" " {
			t.Errorf("%q: %q, want %q", list, got, want)
		}
	}
	for _, x := range []struct {
		have, rule string
		want       bool
	}{
		{"c 1:* rw", "c 1:3 r", true}, {"c 1:* r", "c 1:3 rw", false}, {"c 1:3 r\nc *:3 w", "c 1:3 rw", false}, {"b 1:3 rwm", "c 1:3 r", false},
		{"a", "b 7:0 rwm", true}, {"c 1:3 rwm", "a", false}, {"c *:* rwm\nb *:* rwm", "a", false}, {"", "c 1:3 r", false},
	} {
		if got := CoveredBy(ParseDeviceList(x.have), ParseDeviceList(x.rule)[0]); got != x.want {
			t.Errorf("%q covers %q: %v", x.have, x.rule, got)
		}
	}
}
