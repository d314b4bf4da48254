package netns

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

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

// inside runs a function in a namespace, on a thread that goes there and back.
func inside(t testing.TB, ns *os.File, do func()) {
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

func self(t testing.TB) string {
	t.Helper()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestReadyNamespace: it is another one, holds lo and nothing else, and a packet goes through lo.
func TestReadyNamespace(t *testing.T) {
	requireRoot(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := self(t)
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	seen := map[string]bool{home: true}
	for _, ns := range []*os.File{a, b} {
		inside(t, ns, func() {
			if where := self(t); seen[where] {
				t.Errorf("%s is not a namespace of its own", where)
			} else {
				seen[where] = true
			}
			links, err := net.Interfaces()
			if err != nil || len(links) != 1 || links[0].Name != "lo" || links[0].Flags&net.FlagUp == 0 {
				t.Errorf("links: %v (%v)", links, err)
			}
			exchange(t)
		})
	}
	if now := self(t); now != home {
		t.Errorf("the test's own thread went from %s to %s", home, now)
	}
}

// exchange sends a datagram over lo.
func exchange(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 8)
	if _, err := c.WriteTo([]byte("ping"), c.LocalAddr()); err != nil {
		t.Error(err)
	}
	if n, _, err := c.ReadFrom(b); err != nil || string(b[:n]) != "ping" {
		t.Errorf("got %q (%v)", b[:n], err)
	}
}

// TestThreadsStayHome: afterwards no thread of the process is left in another namespace.
func TestThreadsStayHome(t *testing.T) {
	requireRoot(t)
	home := self(t)
	for range 20 {
		ns, err := New()
		if err != nil {
			t.Fatal(err)
		}
		ns.Close()
	}
	if away := strays(t, home); away != "" {
		t.Error(away)
	}
}

// strays names the threads of this process that are not at home.
func strays(t testing.TB, home string) string {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	out := ""
	for _, task := range tasks {
		link, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net")
		if err == nil && link != home {
			out += "thread " + task.Name() + " is in " + link + "\n"
		}
	}
	return out
}

// TestNoDescriptorLeft: whatever is done, and whether it works, afterwards as many are open as before.
func TestNoDescriptorLeft(t *testing.T) {
	requireRoot(t)
	var before int
	for round := range 3 {
		t.Run("", func(t *testing.T) { everything(t) })
		now := descriptors(t)
		if round > 0 && now != before { // the first opens what the runtime keeps
			t.Errorf("%d descriptors, before %d", now, before)
		}
		before = now
	}
}

// everything calls each method once, and in vain.
func everything(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	w.must(w.Watch(ctx, func() {}))
	ns := w.namespace()
	index, err := w.Connect(ns, wire(2))
	w.must(err)
	if _, err := w.Connect(ns, wire(2)); err == nil {
		t.Error("connected twice")
	}
	if err := w.Readdress(ns, Wire{Name: "eth9"}); err == nil {
		t.Error("there is no eth9")
	}
	w.must(w.Readdress(ns, wire(3)))
	w.must(w.SetRate(index, 1e6, 1e6))
	flags, _, err := w.Uplinks(Flags{})
	w.must(errors.Join(err, w.Restore(flags), w.Sweep(), w.Disconnect(index), w.Remove("ctrfs0", blue().Alias)))
	_, err = Interfaces(ns)
	w.must(err)
	cancel()
	for watching() {
		time.Sleep(time.Millisecond)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func BenchmarkNew(b *testing.B) {
	requireRoot(b)
	for b.Loop() {
		ns, err := New()
		if err != nil {
			b.Fatal(err)
		}
		ns.Close()
	}
}
