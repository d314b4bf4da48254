package test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Netns is a network namespace with a name, as ip-netns(8) has them.
type Netns string

var netnsCount atomic.Int64

// NewNetns makes one for the time of a test.
func NewNetns(t testing.TB, what string) Netns {
	t.Helper()
	n := Netns(fmt.Sprintf("ctrfs-test-%d-%d-%s", os.Getpid(), netnsCount.Add(1), what))
	Tool(t, "ip", "netns", "add", string(n))
	t.Cleanup(func() { Tool(t, "ip", "netns", "del", string(n)) })
	return n
}

// Path is the file that it is bound to.
func (n Netns) Path() string { return "/run/netns/" + string(n) }

// Command makes one that runs in it. It is nsenter that leads there: ip netns exec mounts another /sys, and the control groups are gone.
func (n Netns) Command(argv ...string) *exec.Cmd {
	if n == "" {
		return exec.Command(argv[0], argv[1:]...)
	}
	return exec.Command("nsenter", append([]string{"--net=" + n.Path()}, argv...)...)
}

// Do calls f in the namespace. What f opens stays there; goroutines that it starts are elsewhere.
func (n Netns) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open(n.Path())
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// IP runs ip(8) on it, with a command a line.
func (n Netns) IP(t testing.TB, batch string) {
	t.Helper()
	cmd := exec.Command("ip", "-n", string(n), "-batch", "-")
	cmd.Stdin = strings.NewReader(batch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip -n %s: %v: %s, of\n%s", n, err, out, batch)
	}
}

// Run runs a shell command in it, which must succeed.
func (n Netns) Run(t testing.TB, script string, args ...any) string {
	t.Helper()
	out, err := n.Command("sh", "-c", fmt.Sprintf(script, args...)).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", fmt.Sprintf(script, args...), err, out)
	}
	return string(out)
}

// state is all of a namespace that a container engine could leave changed: links, addresses, routes, the firewall, settings.
func (n Netns) state(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(n.Run(t, "ip -o link; ip -o address; ip route show table all; ip -6 route show table all; ip rule; tc qdisc"))
	b.WriteString(n.Run(t, "nft list ruleset"))
	err := n.Do(func() error {
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.Contains(path, "conntrack") || strings.HasSuffix(path, "stable_secret") {
				return nil //nolint:nilerr // what goes away or cannot be read is no setting of ours
			}
			if text, err := os.ReadFile(path); err == nil {
				fmt.Fprintf(&b, "%s %s", path, text)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// differences are the lines that one of two texts has and the other has not.
func differences(was, is string) (lines []string) {
	count := map[string]int{}
	for line := range strings.Lines(was) {
		count[line]--
	}
	for line := range strings.Lines(is) {
		count[line]++
	}
	for line, n := range count {
		if n != 0 {
			lines = append(lines, fmt.Sprintf("%+d %s", n, strings.TrimSpace(line)))
		}
	}
	slices.SortFunc(lines, func(a, b string) int { // of a link that is left, the link before all of its settings
		return cmp.Or(cmp.Compare(strings.Count(a, "/proc/"), strings.Count(b, "/proc/")), cmp.Compare(a, b))
	})
	return lines
}

// unlike waits until the namespace is as it was, and says what is not. Links go some time after the namespaces that they are in.
func (n Netns) unlike(t testing.TB, was string) error {
	t.Helper()
	for end := time.Now().Add(Patiently(settle)); ; time.Sleep(20 * time.Millisecond) {
		left := differences(was, n.state(t))
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the network %s is not as it was:\n%s", n, indent(left))
		}
	}
}

// The addresses of a [World].
const (
	Host4, Host6       = "192.0.2.1", "2001:db8:1::1"
	Outside4, Outside6 = "192.0.2.2", "2001:db8:1::2"
)

// World is a ctrfs mounted in a network namespace, which is this machine to it, with a link to another one, which is the world.
//
//	Host                                 Outside
//	ctrfs, bridges   uplink ──────────── uplink
//	          192.0.2.1/24               192.0.2.2/24
//	       2001:db8:1::1/64              2001:db8:1::2/64
//
// In the end both must be as they were before the mount.
type World struct {
	*Tree
	Host, Outside Netns
	Peer          string // the program of that name
}

// NewWorld makes one, without a mount yet.
func NewWorld(t testing.TB) *World {
	t.Helper()
	RequireRoot(t)
	for _, program := range []string{"ip", "tc", "nft", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			Require(t, fmt.Errorf("%w; run test/setup test", err))
		}
	}
	peer, err := Program("peer")
	if err != nil {
		t.Fatal(err)
	}
	w := &World{Host: NewNetns(t, "host"), Outside: NewNetns(t, "outside"), Peer: peer}
	w.Host.IP(t, "link set lo up\nlink add uplink type veth peer name uplink netns "+string(w.Outside)+"\nlink set uplink addrgenmode none up\n"+
		"address add "+Host4+"/24 dev uplink\naddress add "+Host6+"/64 dev uplink nodad")
	w.Outside.IP(t, "link set lo up\nlink set uplink addrgenmode none up\naddress add "+Outside4+"/24 dev uplink\naddress add "+Outside6+"/64 dev uplink nodad")
	w.Host.IP(t, "route add default via "+Outside4+"\nroute add default via "+Outside6)
	err = w.Host.Do(func() error {
		if _, err := os.Stat("/proc/sys/net/ipv6/conf/all/force_forwarding"); err == nil {
			return nil
		}
		return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0) // before Linux 6.17 it is for all links or for none
	})
	if err != nil {
		t.Fatal(err)
	}
	i, err := NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	i.Netns = w.Host
	w.Tree = &Tree{i, t}
	Eventually(t, "the link has carrier and its addresses", 5*time.Second, func() bool {
		return slices.Equal(w.Ask(w.Host, "tcp "+Outside4+":9", "tcp ["+Outside6+"]:9"), []string{"error: connection refused", "error: connection refused"})
	})
	host, outside := w.Host.state(t), w.Outside.state(t)
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
		if err := errors.Join(w.Host.unlike(t, host), w.Outside.unlike(t, outside)); err != nil {
			t.Error(err)
		}
	})
	return w
}

// MountWorld makes one and mounts ctrfs in it.
func MountWorld(t testing.TB) *World {
	t.Helper()
	w := NewWorld(t)
	if err := w.Mount(); err != nil {
		t.Fatal(err)
	}
	return w
}

// during is the same world for one subtest.
func (w *World) during(t testing.TB) *World {
	return &World{&Tree{w.Instance, t}, w.Host, w.Outside, w.Peer}
}

// Root makes a busybox root with peer in it.
func (w *World) Root() string {
	w.T.Helper()
	root := w.Tree.Root()
	if _, err := os.Stat(root + "/bin/peer"); err == nil {
		return root
	}
	if err := copyFile(root+"/bin/peer", w.Peer, 0o755); err != nil {
		w.T.Fatal(err)
	}
	return root
}

// Up starts a container in networks with a server in it, which answers as the container is called, and waits for that.
func (w *World) Up(name, net string, settings ...string) {
	w.T.Helper()
	w.Run(name, net, "peer serve "+strings.ReplaceAll(name, "/", "."), settings...)
	Eventually(w.T, name+" serves", 10*time.Second, func() bool { return strings.HasPrefix(w.Read(name+"/log"), "up") })
}

// Run starts a container in networks, which does not linger when the mount is taken down.
func (w *World) Run(name, net, cmd string, settings ...string) {
	w.T.Helper()
	w.Root()
	w.Start(name, cmd, append([]string{"net", net, "stop.timeout", "0"}, settings...)...)
}

// Down ends containers and removes them.
func (w *World) Down(names ...string) {
	w.T.Helper()
	for _, name := range names {
		w.Sh("echo KILL 2> /dev/null > %s/kill; cat %s/wait > /dev/null; rmdir %s", name, name, name)
	}
}

// Say runs a program in a container that runs, and returns what it says.
func (w *World) Say(container, cmd string) string {
	w.T.Helper()
	x := fmt.Sprintf("%s/exec/x%d", container, execs.Add(1))
	if err := os.Mkdir(filepath.Join(w.Dir, x), 0o755); err != nil {
		w.T.Fatal(err)
	}
	w.Write(x+"/cmd", cmd)
	w.Write(x+"/start", "1")
	w.Read(x + "/wait")
	said := w.Read(x + "/log")
	if err := os.Remove(filepath.Join(w.Dir, x)); err != nil {
		w.T.Error(err)
	}
	return said
}

var execs atomic.Int64 // one number for each

// Ask has peer ask several questions at once, from a container or from a namespace, and returns the answers.
func (w *World) Ask(from any, questions ...string) []string {
	w.T.Helper()
	words := strings.Join(questions, " ; ")
	var out string
	switch from := from.(type) {
	case string:
		out = w.Say(from, "peer "+strings.ReplaceAll(words, ";", `';'`))
	case Netns:
		text, err := from.Command(append([]string{w.Peer}, strings.Fields(words)...)...).CombinedOutput()
		if err != nil {
			w.T.Fatalf("peer %s: %v: %s", words, err, text)
		}
		out = strings.TrimSuffix(string(text), "\n")
	}
	answers := strings.Split(out, "\n")
	if len(answers) != len(questions) {
		w.T.Fatalf("peer %s in %v answers %q", words, from, out)
	}
	return answers
}

// Answers asks in the same way: each question is followed by the answer that is wanted, "~ " and a pattern, or several with " | " between them.
func (w *World) Answers(from any, pairs ...string) {
	w.T.Helper()
	var questions, wanted []string
	for pair := range slices.Chunk(pairs, 2) {
		if pair[1] == "error: timeout" {
			pair[0] = "never " + pair[0]
		}
		questions, wanted = append(questions, pair[0]), append(wanted, pair[1])
	}
	for i, got := range w.Ask(from, questions...) {
		if match, err := lineMatcher(wanted[i]); err != nil || !match(got) && !slices.Contains(strings.Split(wanted[i], " | "), got) {
			w.T.Errorf("from %v, %s: %q, wanted %q", from, questions[i], got, wanted[i])
		}
	}
}

// Background runs peer in a namespace for the time of a test, or until it is stopped. It waits for the first line.
func (w *World) Background(n Netns, words string) (stop func()) {
	w.T.Helper()
	cmd := n.Command(append([]string{w.Peer}, strings.Fields(words)...)...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.T.Fatal(err)
	}
	line := make([]byte, 64)
	if n, err := out.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "up") {
		w.T.Errorf("peer %s: %s, %v", words, line[:n], err)
	}
	ended := false
	stop = func() {
		if !ended {
			cmd.Process.Kill()
			cmd.Wait()
		}
		ended = true
	}
	w.T.Cleanup(stop)
	return stop
}

// Link is what net.address says of one link of a container.
type Link struct {
	Name, Network, MAC string
	V4, V6             string // without the length
	Via                []string
}

// Links reads net.address.
func (w *World) Links(container string) (all []Link) {
	w.T.Helper()
	for line := range strings.Lines(w.Read(container + "/net.address")) {
		fields := strings.Fields(line)
		l := Link{Name: fields[0], Network: fields[1], MAC: fields[2]}
		for i := 3; i < len(fields); i++ {
			if fields[i] == "via" {
				i++
				l.Via = append(l.Via, fields[i])
			} else if p, err := netip.ParsePrefix(fields[i]); err == nil && p.Addr().Is4() {
				l.V4 = p.Addr().String()
			} else if err == nil && !p.Addr().IsLinkLocalUnicast() {
				l.V6 = p.Addr().String()
			}
		}
		all = append(all, l)
	}
	return all
}

// Link returns the only link of a container.
func (w *World) Link(container string) Link {
	w.T.Helper()
	all := w.Links(container)
	if len(all) != 1 {
		w.T.Fatalf("the links of %s: %v", container, all)
	}
	return all[0]
}

// Sniffer is what arrives at a link.
type Sniffer struct {
	file *os.File
}

// Sniff listens on a link of a namespace.
func (n Netns) Sniff(t testing.TB, link string) *Sniffer {
	t.Helper()
	s := &Sniffer{}
	err := n.Do(func() error {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		s.file = os.NewFile(uintptr(fd), "packets")
		l, err := net.InterfaceByName(link) // /sys shows the links of the namespace in which it was mounted
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.file.Close() })
	return s
}

// Packets returns what has come since the last call, and comes for a moment more.
func (s *Sniffer) Packets(wait time.Duration) (packets [][]byte, err error) {
	if err := s.file.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := s.file.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return packets, nil
		}
		if err != nil {
			return packets, err
		}
		packets = append(packets, bytes.Clone(buf[:n]))
	}
}
