package names

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestResolvConf(t *testing.T) {
	evil := netip.MustParseAddr("fe80::1").WithZone("a\noptions debug")
	for _, c := range []struct {
		servers         []netip.Addr
		search, options []string
		want            string
	}{
		{nil, nil, nil, ""},
		{[]netip.Addr{ip("10.0.0.1"), ip("fe80::1%eth0")}, []string{"a.example", "b.example"}, []string{"ndots:0", "edns0"},
			"nameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions ndots:0 edns0\n"},
		{[]netip.Addr{{}, evil}, []string{"", "a b", "a\nnameserver 192.0.2.1", "ok.example", "#x", "tab\t", "nul\x00", "ü"}, []string{"\n"}, "search ok.example\n"},
	} {
		if got := ResolvConf(c.servers, c.search, c.options); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		own      []netip.Addr
		hostname string
		extra    []string
		want     string
	}{
		{nil, "", nil, ""},
		{nil, "web", nil, ""},
		{[]netip.Addr{ip("10.0.0.2"), ip("fd00::2")}, "web", nil, "10.0.0.2\tweb\nfd00::2\tweb\n"},
		{[]netip.Addr{ip("10.0.0.2")}, "web.example.org", []string{"192.0.2.1 db  db.example.org", "2001:DB8::1\tsix"},
			"192.0.2.1\tdb db.example.org\n2001:db8::1\tsix\n10.0.0.2\tweb.example.org web\n"},
		{[]netip.Addr{ip("10.0.0.2")}, "web\n192.0.2.1 bank.example", []string{"192.0.2.1", "x y", "192.0.2.1 a\n192.0.2.2 b", "192.0.2.1 a # b", "", "192.0.2.1 nul\x00", "192.0.2.3 ok"}, "192.0.2.3\tok\n"},
	} {
		if got := Hosts(c.own, c.hostname, c.extra); got != localhosts+c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// FuzzFiles: whatever goes in, each line is one that was asked for.
func FuzzFiles(f *testing.F) {
	f.Add("web", "10.0.0.1 a b", "corp.example", "eth0")
	f.Add("a\nb", "10.0.0.1 a\n10.0.0.2 b", "a b\r\nc", "x\ny")
	f.Fuzz(func(t *testing.T, hostname, extra, domain, zone string) {
		server := ip("fe80::1").WithZone(zone)
		text := ResolvConf([]netip.Addr{server}, []string{domain}, []string{domain})
		for line := range strings.Lines(text) {
			w := strings.Fields(line)
			if len(w) != 2 || w[0] != "nameserver" && w[0] != "search" && w[0] != "options" || strings.ContainsAny(line[:len(line)-1], "\r\v\f\x00") {
				t.Errorf("%q", text)
			}
		}
		if strings.Count(text, "nameserver")-strings.Count(domain, "nameserver")*2 > 1+strings.Count(zone, "nameserver") {
			t.Errorf("%q", text)
		}
		text = Hosts([]netip.Addr{server}, hostname, []string{extra})
		lines := strings.Split(strings.TrimPrefix(text, localhosts), "\n")
		if len(lines) > 3 || strings.ContainsAny(text, "\r\v\f\x00#") {
			t.Errorf("%q", text)
		}
		for _, l := range lines[:len(lines)-1] {
			if w := strings.Fields(l); len(w) < 2 || !isAddr(w[0]) {
				t.Errorf("%q", text)
			}
		}
	})
}

func isAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func TestHostServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	show := func() string {
		h, err := ReadHost(path)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(h.Servers, h.Search, h.Options)
	}
	if got := show(); got != "[127.0.0.1:53] [] []" {
		t.Errorf("no file: %s", got)
	}
	for i, c := range []struct{ text, want string }{
		{"", "[127.0.0.1:53] [] []"},
		{"# a\n; b\nnameserver 192.0.2.1\nnameserver x.example\nnameserver\nnameserver fe80::1%eth0 # c\nnameserver ::ffff:192.0.2.2\nnameserver 192.0.2.4\n",
			"[192.0.2.1:53 [fe80::1%eth0]:53 192.0.2.2:53] [] []"},
		{"domain a.example\nsearch b.example c.example\noptions ndots:2 rotate\noptions edns0 use-vc\nnameserver 192.0.2.1\r\n",
			"[192.0.2.1:53] [b.example c.example] [ndots:2 rotate edns0 use-vc]"},
		{"nameserver 192.0.2.1", "[192.0.2.1:53] [] []"},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := show(); got != c.want {
			t.Errorf("%d:\n got %s\nwant %s", i, got, c.want)
		}
	}
}

// TestHostServersKept: the file is read again only if it is another one, and then it is.
func TestHostServersKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	when := time.Now().Add(-time.Hour)
	write := func(name, server string) {
		if err := os.WriteFile(name, []byte("nameserver "+server+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, when, when); err != nil {
			t.Fatal(err)
		}
	}
	get := func() string {
		s, err := HostServers(path)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(s)
	}
	write(path, "192.0.2.1")
	if got := get(); got != "[192.0.2.1:53]" {
		t.Error(got)
	}
	write(path, "192.0.2.2") // the same file at the same time: nobody reads it
	if got := get(); got != "[192.0.2.1:53]" {
		t.Errorf("it was read again: %s", got)
	}
	when = when.Add(time.Nanosecond)
	write(path, "192.0.2.3")
	if got := get(); got != "[192.0.2.3:53]" {
		t.Error(got)
	}
	write(path+".new", "192.0.2.4") // as editors do
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if got := get(); got != "[192.0.2.4:53]" {
		t.Error(got)
	}
}

// TestHostServersErrors: a file that is none does not hold anyone up.
func TestHostServersErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Dir(path)} {
		if _, err := HostServers(p); !errors.Is(err, syscall.EINVAL) {
			t.Error(p, err)
		}
	}
	if _, err := HostServers(filepath.Join(path, "x")); !errors.Is(err, syscall.ENOTDIR) {
		t.Error(err)
	}
}

func FuzzHost(f *testing.F) {
	f.Add("nameserver 192.0.2.1\nsearch a b\noptions ndots:9")
	f.Fuzz(func(t *testing.T, text string) {
		h := parseHost([]byte(text))
		if len(h.Servers) == 0 || len(h.Servers) > serversMax || len(words(h.Search)) != len(h.Search) || len(words(h.Options)) != len(h.Options) {
			t.Errorf("%+v", h)
		}
	})
}
