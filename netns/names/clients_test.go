package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/netns"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("network namespaces need root, and CI has to have it")
	}
	t.Skip("network namespaces need root")
}

// space makes a network namespace. What do runs in it, on a thread that comes back; programs that it starts are in it too.
func space(t *testing.T) (ns *os.File, inside func(do func())) {
	t.Helper()
	requireRoot(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns, func(do func()) {
		t.Helper()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		do()
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
	}
}

// run runs a program with a timeout, and returns its output and how it exited.
func run(t *testing.T, argv ...string) (string, int) {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	} else if err != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// TestCLibrary: getaddrinfo and getnameinfo of the C library, with the files that we make, at port 53 of a namespace.
func TestCLibrary(t *testing.T) {
	u := serveUpstream(t, echo)
	for _, c := range []struct {
		kind     string
		upstream func() []netip.AddrPort
		gateway  string
	}{{"open", list(u), "127.9.0.1"}, {"internal", nil, "127.9.0.1"}, {"internal, IPv6", nil, "::1"}} {
		t.Run(c.kind, func(t *testing.T) {
			_, inside := space(t)
			inside(func() {
				r, err := Serve(Config{Addresses: []netip.Addr{ip(c.gateway)}, Zone: testZone(), Upstream: c.upstream})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				dir := t.TempDir()
				resolv := ResolvConf([]netip.Addr{ip(c.gateway)}, []string{"corp.example"}, []string{"ndots:0"})
				hosts := Hosts([]netip.Addr{ip("10.9.0.99")}, "me.example.org", []string{"192.0.2.9 written"})
				for name, text := range map[string]string{"resolv.conf": resolv, "hosts": hosts, "nsswitch.conf": "hosts: files dns\n"} {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				for _, q := range []struct{ command, want string }{
					{"getent ahosts web", "fd09::2 10.9.0.2"}, {"getent ahosts WEB", "fd09::2 10.9.0.2"}, {"getent ahosts four", "10.9.0.4"}, {"getent ahosts six", "fd09::6"},
					{"getent hosts 10.9.0.2", "10.9.0.2 web"}, {"getent hosts fd09::2", "fd09::2 web"},
					{"getent hosts me", "10.9.0.99 me.example.org me"}, {"getent ahosts written", "192.0.2.9"}, {"getent hosts 10.9.0.3", ""},
					// With an outside, what has no address is looked for in the domain of search.
					{"getent ahosts none", map[bool]string{true: "", false: "203.0.113.7"}[c.upstream == nil]},
					{"getent ahosts nosuch", map[bool]string{true: "", false: "203.0.113.7"}[c.upstream == nil]},
					{"getent ahosts example.org", map[bool]string{true: "", false: "203.0.113.7"}[c.upstream == nil]},
				} {
					began := time.Now()
					out, code := run(t, "unshare", "--mount", "sh", "-c",
						`for f in resolv.conf hosts nsswitch.conf; do mount --bind "$0/$f" "/etc/$f" || exit 99; done; exec `+q.command, dir)
					if took := time.Since(began); !same(out, q.want) || code != map[bool]int{true: 2}[q.want == ""] || took > 3*time.Second {
						t.Errorf("%s: code %d, %v:\n%swant %s", q.command, code, took, out, q.want)
					}
				}
			})
		})
	}
}

// same compares the words of getent's lines, without order, repetition and types of socket.
func same(out, want string) bool {
	set := func(s string) []string {
		words := slices.DeleteFunc(strings.Fields(s), func(w string) bool { return slices.Contains([]string{"STREAM", "DGRAM", "RAW"}, w) })
		slices.Sort(words)
		return slices.Compact(words)
	}
	words := set(out)
	if first, _, ok := strings.Cut(out, "\n"); ok && strings.Contains(first, "STREAM") { // ahosts: the canonical name is there too
		words = slices.DeleteFunc(words, func(w string) bool { _, err := netip.ParseAddr(w); return err != nil })
	}
	return slices.Equal(words, set(want))
}

// TestGoResolver: the resolver of Go's library, with its answers by UDP and TCP.
func TestGoResolver(t *testing.T) {
	_, server := start(t, Config{Upstream: list(serveUpstream(t, echo))})
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server)
	}}
	ctx := t.Context()
	for name, want := range map[string]string{"web.": "[10.9.0.2 fd09::2]", "four.": "[10.9.0.4]", "six.": "[fd09::6]", "example.org.": "[203.0.113.7]"} {
		got, err := r.LookupHost(ctx, name)
		slices.Sort(got)
		if fmt.Sprint(got) != want || err != nil {
			t.Errorf("%s: %v (%v)", name, got, err)
		}
	}
	if got, err := r.LookupHost(ctx, "many."); len(got) != 200 || err != nil {
		t.Errorf("many: %d (%v)", len(got), err)
	}
	if got, err := r.LookupAddr(ctx, "10.9.0.2"); fmt.Sprint(got) != "[web. www.]" || err != nil {
		t.Errorf("%v (%v)", got, err)
	}
	began := time.Now()
	for _, name := range []string{"none.", "n200.blue."} {
		_, internal := start(t, Config{})
		server = internal
		_, err := r.LookupHost(ctx, name)
		if e := (*net.DNSError)(nil); !errors.As(err, &e) || !e.IsNotFound || e.IsTemporary {
			t.Errorf("%s: %v", name, err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v to find nothing", took)
	}
}

// TestLink: three namespaces as host and two containers. Only who comes in by the link is answered, and the gateway's addresses come
// later than the resolver. The host itself may ask: the kernel takes its packets as received by the link that has the address.
func TestLink(t *testing.T) {
	_, host := space(t)
	ns, container := space(t)
	otherNS, other := space(t)
	upstream := list(serveUpstream(t, echo))
	lines := func(inside func(func()), all ...string) {
		t.Helper()
		inside(func() {
			for _, line := range all {
				if out, code := run(t, append([]string{"ip"}, strings.Fields(line)...)...); code != 0 {
					t.Fatalf("ip %s: %s", line, out)
				}
			}
		})
	}
	peer := func(ns *os.File) string {
		return fmt.Sprintf("type veth peer name eth0 netns /proc/%d/fd/%d", os.Getpid(), ns.Fd())
	}
	lines(host, "link add gate "+peer(ns), "link add side "+peer(otherNS))
	z := testZone()
	z.names[ip("10.9.0.7")], z.names[ip("fd09::7")] = []string{"me"}, []string{"me"}
	c := Config{Addresses: []netip.Addr{ip("10.9.0.1"), ip("fd09::1")}, Zone: z, Upstream: upstream}
	var open, bound *Resolver
	host(func() {
		var err error
		if open, err = Serve(Config{Addresses: c.Addresses, Zone: z, Port: 5300}); err != nil {
			t.Fatal(err)
		}
		c.Link = "gate"
		if bound, err = Serve(c); err != nil {
			t.Fatal(err)
		}
	})
	defer open.Close()
	defer bound.Close()
	lines(host, "link set gate up", "addr add 10.9.0.1/16 dev gate", "addr add fd09::1/64 dev gate nodad", "link set side up", "addr add 10.8.0.1/16 dev side")
	lines(container, "addr add 10.9.0.7/16 dev eth0", "addr add fd09::7/64 dev eth0 nodad", "link set eth0 up")
	lines(other, "addr add 10.8.0.7/16 dev eth0", "link set eth0 up", "route add default via 10.8.0.1")
	const own = "NOERROR aa rd ra | web. 5 IN A 10.9.0.2"
	container(func() {
		for _, server := range []string{"10.9.0.1:53", "[fd09::1]:53"} {
			for _, network := range []string{"udp", "tcp"} {
				for name, want := range map[string]string{"web": own, "example.org": "NOERROR rd ra | example.org. 60 IN A 203.0.113.7"} {
					if got := here(network, server, name, 3*time.Second); got != want {
						t.Errorf("%s %s: %s", network, server, got)
					}
				}
			}
		}
	})
	other(func() {
		for _, network := range []string{"udp", "tcp"} {
			if got := here(network, "10.9.0.1:5300", "web", 3*time.Second); got != "NOERROR aa rd | web. 5 IN A 10.9.0.2" {
				t.Errorf("without a link, %s: %s", network, got)
			}
			if got := here(network, "10.9.0.1:53", "web", 300*time.Millisecond); got != "" {
				t.Errorf("another network, %s: %s", network, got)
			}
		}
	})
	host(func() {
		if got := here("udp", "10.9.0.1:53", "web", 3*time.Second); got != own {
			t.Errorf("the host itself: %s", got)
		}
	})
}

// here asks from this thread's namespace: a client of the library dials in a goroutine of its own when it has a timeout. No reply is "".
func here(network, server, name string, timeout time.Duration) string {
	c, err := net.Dial(network, server)
	if err != nil {
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	q := &dns.Conn{Conn: c}
	if err := q.WriteMsg(question(name, dns.TypeA)); err != nil {
		return ""
	}
	m, err := q.ReadMsg()
	if err != nil {
		return ""
	}
	return render(m)
}

// TestDig: a client that shows everything.
func TestDig(t *testing.T) {
	_, server := start(t, Config{Upstream: list(serveUpstream(t, long))})
	addr, port, _ := net.SplitHostPort(server)
	for line, want := range map[string]string{
		"+short web A": "10.9.0.2", "+short web AAAA": "fd09::2", "+short -x 10.9.0.2": "web.", "+short +tcp web": "10.9.0.2", "+short +dnssec +nocookie web": "10.9.0.2",
		"+noall +comments nosuch.example.org": "status: NOERROR", "web ANY": "status: NOTIMP", "version.bind CH TXT": "status: REFUSED", "web AXFR": "Transfer failed",
		"+noall +comments +bufsize=512 +ignore a100.example.org": "qr tc rd ra", "+noall +comments a100.example.org": "ANSWER: 100", "+noall +comments +header-only": "FORMERR",
	} {
		out, _ := run(t, append([]string{"dig", "@" + addr, "-p", port, "+time=3", "+tries=1"}, strings.Fields(line)...)...)
		if !strings.Contains(out, want) || strings.Contains(out, "WARNING") && want != "FORMERR" {
			t.Errorf("dig %s:\n%s", line, out)
		}
	}
}
