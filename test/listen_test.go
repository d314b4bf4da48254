package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// freePort returns a port of TCP that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// listener puts the server of test/listener into the root.
func (m *Tree) listener() {
	m.T.Helper()
	binary, err := Program("listener")
	if err != nil {
		m.T.Fatal(err)
	}
	to := m.Root() + "/bin/listener"
	if _, err := os.Stat(to); err == nil {
		return
	}
	if err := copyFile(to, binary, 0o755); err != nil {
		m.T.Fatal(err)
	}
}

// listen arms a container with that server on a port.
func (m *Tree) listen(name, flags string, settings ...string) (address string) {
	m.T.Helper()
	m.listener()
	port := freePort(m.T)
	m.Start(name, strings.TrimSpace("/bin/listener "+flags), append(settings, "net.listen", fmt.Sprintf("tcp 127.0.0.1:%d fds web", port))...)
	if got := m.Read(name + "/state"); got != "listening" {
		m.T.Fatalf("%s is %s", name, got)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// clientLimit is how long a client waits: it would wait for ever for what is lost.
var clientLimit = Patiently(20 * time.Second)

// ask connects, says a line, and returns the answer.
func ask(network, address, line string) (string, error) { return askLater(network, address, line, 0) }

// askLater connects, and says the line after a while.
func askLater(network, address, line string, after time.Duration) (string, error) {
	c, err := net.DialTimeout(network, address, clientLimit)
	if err != nil {
		return "", err
	}
	defer c.Close()
	time.Sleep(after)
	c.SetDeadline(time.Now().Add(clientLimit))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

// wantAnswer asks, and holds the server to its answer.
func wantAnswer(t testing.TB, address, line, want string) {
	t.Helper()
	if got, err := ask("tcp", address, line); err != nil || got != want {
		t.Errorf("%s: the answer to %q is %q (%v)", address, line, got, err)
	}
}

// askAll has so many clients ask at once, and returns how many got no answer, or a wrong one.
func askAll(t testing.TB, address string, clients int, want string) (lost int64) {
	t.Helper()
	var bad atomic.Int64
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			line := fmt.Sprint("client ", i)
			if got, err := ask("tcp", address, line); err != nil || got != want+line {
				if bad.Add(1) < 5 {
					t.Errorf("%q (%v)", got, err)
				}
			}
		})
	}
	all.Wait()
	return bad.Load()
}

// A thousand clients connect while the first of them launches the container, which takes its time.
func TestListenBurst(t *testing.T) {
	m := MountFor(t)
	address := m.listen("web", "-start 300ms")
	begin := time.Now()
	if lost := askAll(t, address, 1000, "web "); lost > 0 {
		t.Errorf("%d of 1000 are lost", lost)
	}
	t.Logf("1000 clients took %v", time.Since(begin))
	if n := m.runs("web"); n != 1 {
		t.Errorf("%d runs", n)
	}
	m.Write("web/stop", "1")
	if got := m.Read("web/wait"); got != "0" {
		t.Errorf("exit %s", got)
	}
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("somebody still listens")
	}
}

// Each of a thousand connections has a program of its own, so many at a time.
func TestListenInetd(t *testing.T) {
	m := MountFor(t)
	address := m.inetd("echo", "cat", "max=20")
	begin := time.Now()
	if lost := askAll(t, address, 300, ""); lost > 0 {
		t.Errorf("%d of 300 are lost", lost)
	}
	t.Logf("300 clients took %v", time.Since(begin))
	Eventually(t, "it listens again", 5*time.Second, func() bool { return m.Read("echo/state") == "listening" })

	var held []net.Conn
	for range 25 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	programs := func() int { return strings.Count(m.Read("echo/ps"), "cat") }
	Eventually(t, "twenty have a program", 10*time.Second, func() bool { return programs() == 20 })
	time.Sleep(200 * time.Millisecond)
	if n := programs(); n != 20 {
		t.Errorf("%d programs, at most 20 are wanted", n)
	}
	for _, c := range held[:10] {
		c.Close()
	}
	Eventually(t, "the others follow", 10*time.Second, func() bool { return programs() == 15 })
	m.Write("echo/stop", "1")
	if got := m.Read("echo/wait"); got != "0" {
		t.Errorf("exit %s", got)
	}
	for _, c := range held[10:] {
		c.SetDeadline(time.Now().Add(clientLimit))
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection outlives its program")
		}
	}
}

// inetd arms a container of which each connection has a program.
func (m *Tree) inetd(name, cmd, options string, settings ...string) (address string) {
	m.T.Helper()
	port := freePort(m.T)
	m.Start(name, cmd, append(settings, "net.listen", fmt.Sprintf("tcp %d inetd %s", port, options))...)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// Ten containers are stopped for idleness and woken again, ten times and more each, by clients that come at about the moment of the stop.
// None is lost.
func TestListenIdle(t *testing.T) {
	m := MountFor(t)
	const containers, wakes = 10, 10
	var all sync.WaitGroup
	var asked atomic.Int64
	for i := range containers {
		name := fmt.Sprintf("c%d", i)
		flags := ""
		if i%3 == 2 {
			flags = "-ignore"
		}
		address := m.listen(name, flags, "net.idle", "1", "stop.timeout", "1")
		all.Go(func() {
			for n := 0; m.runs(name) <= wakes && n < 20*wakes; n++ {
				line := fmt.Sprint("client ", asked.Add(1))
				after := time.Duration(0)
				if flags != "" { // somebody is there when it is to be killed
					after = time.Duration(rand.IntN(700)) * time.Millisecond
				}
				if got, err := askLater("tcp", address, line, after); err != nil || got != "web "+line {
					t.Errorf("%s: %q (%v)", name, got, err)
					return
				}
				time.Sleep(900*time.Millisecond + time.Duration(rand.IntN(600))*time.Millisecond)
				if flags != "" { // it is killed later
					time.Sleep(time.Duration(rand.IntN(1200)) * time.Millisecond)
				}
			}
		})
	}
	all.Wait()
	runs := 0
	for i := range containers {
		runs += m.runs(fmt.Sprintf("c%d", i))
	}
	t.Logf("%d clients, %d runs", asked.Load(), runs)
	if runs < containers*wakes {
		t.Errorf("only %d runs", runs)
	}
	if bad := m.failures(); len(bad) > 0 {
		t.Error(strings.Join(bad, "\n"))
	}
}

// A program is not idle as long as somebody is connected, by TCP or by a path, and idle afterwards.
func TestListenBusy(t *testing.T) {
	m := MountFor(t)
	m.listener()
	port, path := freePort(t), m.Tmp+"/sock"
	m.Start("c", "/bin/listener", "net.idle", "1", "net.listen", fmt.Sprintf("tcp %d\nunix %s fds local", port, path))
	for _, at := range [][2]string{{"tcp", fmt.Sprintf("127.0.0.1:%d", port)}, {"unix", path}} {
		c, err := net.Dial(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		Eventually(t, "it runs", 5*time.Second, func() bool { return m.Read("c/state") == "running" })
		time.Sleep(2500 * time.Millisecond)
		if got := m.Read("c/state"); got != "running" {
			t.Errorf("%s: it is %s while somebody is connected", at[0], got)
		}
		c.Close()
		Eventually(t, "it listens again", 5*time.Second, func() bool { return m.Read("c/state") == "listening" })
	}
}

// The server is killed while a container is armed, on its way, and serves. Who connects meanwhile is served.
func TestListenKillServer(t *testing.T) {
	m := MountFor(t)
	address := m.listen("web", "-n 1 -start 20ms") // a run for each client: always on its way
	echo := m.inetd("echo", "cat", "")
	long := m.listen("long", "")
	wantAnswer(t, long, "x", "web x")
	kept, err := net.Dial("tcp", long)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	for round := range 10 {
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
				wantAnswer(t, address, "x", "web x")
				wantAnswer(t, echo, "x", "x")
				wantAnswer(t, long, "x", "web x")
			})
		}
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
		m.killServer()
		all.Wait()
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	fmt.Fprintln(kept, "still")
	kept.SetDeadline(time.Now().Add(clientLimit))
	if got, err := bufio.NewReader(kept).ReadString('\n'); got != "web still\n" {
		t.Errorf("%q (%v)", got, err)
	}
	Eventually(t, "it listens", 10*time.Second, func() bool { return m.Read("web/state") == "listening" && m.Read("echo/state") == "listening" })
	m.killServer() // while armed, with nothing on its way
	if got := m.Read("web/state") + m.Read("echo/state") + m.Read("long/state"); got != "listeninglisteningrunning" {
		t.Error(got)
	}
	wantAnswer(t, address, "x", "web x")
	wantAnswer(t, echo, "x", "x")
	if bad := m.failures(); len(bad) > 0 {
		t.Error(strings.Join(bad, "\n"))
	}
}

// An upgrade leaves armed what is armed, and serves who connects meanwhile.
func TestListenUpgrade(t *testing.T) {
	m := MountFor(t)
	address := m.listen("web", "-n 1")
	echo := m.inetd("echo", "cat", "")
	long := m.listen("long", "")
	wantAnswer(t, long, "x", "web x")
	keeper, _, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	before := fds(t, keeper)
	var all sync.WaitGroup
	for range 5 {
		for _, a := range []string{address, echo, long} {
			all.Go(func() {
				time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
				want := "web x"
				if a == echo {
					want = "x"
				}
				wantAnswer(t, a, "x", want)
			})
		}
	}
	m.upgrade()
	all.Wait()
	Eventually(t, "it listens", 10*time.Second, func() bool { return m.Read("web/state") == "listening" && m.Read("echo/state") == "listening" })
	m.upgrade()
	wantAnswer(t, address, "x", "web x")
	wantAnswer(t, echo, "x", "x")
	wantAnswer(t, long, "x", "web x")
	Eventually(t, "the keeper holds no more than before", 5*time.Second, func() bool { return fds(t, keeper) <= before+1 })
	m.Write("long/stop", "1")
	m.Read("long/wait")
	if _, err := ask("tcp", long, "x"); err == nil {
		t.Error("somebody still listens")
	}
}

// The keeper dies, and with it the sockets. A mount opens them anew, also those of a program that goes on with its own.
func TestListenKillKeeper(t *testing.T) {
	m := MountFor(t)
	address := m.listen("web", "")
	path := m.Tmp + "/sock"
	m.Start("unix", "/bin/listener", "net.listen", "unix "+path)
	long := m.listen("long", "-n 2")
	wantAnswer(t, long, "x", "web x")
	m.killKeeperAlone()
	Eventually(t, "it listens again", 5*time.Second, func() bool { return m.Read("web/state") == "listening" && m.Read("unix/state") == "listening" })
	wantAnswer(t, address, "x", "web x")
	if got, err := ask("unix", path, "x"); got != "unix x" {
		t.Errorf("%q (%v)", got, err)
	}
	if got := m.Read("long/state"); got != "running" {
		t.Errorf("it is %s", got)
	}
	wantAnswer(t, long, "x", "web x") // the last one of that run
	Eventually(t, "it listens again", 5*time.Second, func() bool { return m.Read("long/state") == "listening" })
	wantAnswer(t, long, "x", "web x")
}

// What listens at an unmount listens after the next mount, and leaves no socket in between.
func TestListenMounts(t *testing.T) {
	m := MountFor(t)
	address := m.listen("web", "")
	path := m.Tmp + "/sock"
	m.Start("unix", "/bin/listener", "net.listen", "unix "+path, "autostart", "1")
	for _, how := range []string{"--keep", "--stop"} {
		if err := m.Umount(how); err != nil {
			t.Fatal(err)
		}
		if _, err := ask("tcp", address, "x"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("after umount %s somebody listens (%v)", how, err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("umount %s has left the file of a socket", how)
		}
		if err := m.Mount(); err != nil {
			t.Fatal(err)
		}
		Eventually(t, "autostart arms it", 5*time.Second, func() bool { return m.Read("unix/state") == "listening" })
		want := map[string]string{"--keep": "listening", "--stop": "created"}[how]
		Eventually(t, "web is "+want, 5*time.Second, func() bool { return m.Read("web/state") == want })
	}
	if got, err := ask("unix", path, "x"); got != "unix x" {
		t.Errorf("%q (%v)", got, err)
	}
}

// A program that ends without having taken the connection is not launched again at once for ever.
func TestListenBackoff(t *testing.T) {
	m := MountFor(t)
	address := m.listen("web", "-fail")
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(2 * time.Second)
	if n := m.runs("web"); n < 2 || n > 6 {
		t.Errorf("%d runs in two seconds", n)
	}
	if got := m.Read("web/state"); got != "listening" {
		t.Errorf("it is %s", got)
	}
	// A program that cannot be executed, likewise, and error says so.
	m.Write("web/stop", "1")
	m.Read("web/wait")
	m.Write("web/cmd", "/nosuch")
	m.Write("web/start", "1")
	d, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	Eventually(t, "error says why", 5*time.Second, func() bool { return strings.Contains(m.Read("web/error"), "/nosuch") })
	m.Write("web/stop", "1")
	m.Read("web/wait")
	// One that takes each connection and ends is launched again at once.
	m.Write("web/cmd", "/bin/listener -n 1")
	m.Write("web/start", "1")
	begin := time.Now()
	if lost := askAll(t, address, 20, "web "); lost > 0 {
		t.Errorf("%d of 20 are lost", lost)
	}
	t.Logf("20 runs took %v", time.Since(begin))
}

// Datagrams launch as well. All of them are there when the program looks.
func TestListenDatagrams(t *testing.T) {
	m := MountFor(t)
	m.listener()
	port, path := freePort(t), m.Tmp+"/sock"
	m.Start("c", "/bin/listener", "net.idle", "1", "net.listen", fmt.Sprintf("udp %d fds u\nunix-dgram %s", port, path))
	c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 100)
	for round := range 3 {
		for i := range 10 {
			fmt.Fprintf(c, "%d-%d", round, i)
		}
		for i := range 10 {
			c.SetDeadline(time.Now().Add(clientLimit))
			if n, err := c.Read(b); err != nil || string(b[:n]) != fmt.Sprintf("u %d-%d", round, i) {
				t.Errorf("%q (%v)", b[:n], err)
			}
		}
		Eventually(t, "it listens again", 10*time.Second, func() bool { return m.Read("c/state") == "listening" })
	}
	d, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fmt.Fprint(d, "by path")
	Eventually(t, "it has come", 5*time.Second, func() bool { return strings.Contains(m.Read("c/log"), "got by path") })
}

// A daemon that knows of LISTEN_FDS by itself, of this machine's /usr.
func TestListenDaemon(t *testing.T) {
	if _, err := exec.LookPath("uuidd"); err != nil {
		t.Skip(fmt.Errorf("%w; run test/setup test", err))
	}
	m := MountFor(t)
	path := m.Tmp + "/request"
	m.Sh("mkdir c; echo '/usr/sbin/uuidd --no-fork --no-pid --socket-activation' > c/cmd; echo 'unix %s' > c/net.listen; echo 1 > c/net.idle; echo 1 > c/start", path)
	for range 3 {
		out, err := exec.Command("uuidd", "--socket", path, "--random").CombinedOutput()
		if len(strings.TrimSpace(string(out))) != 36 {
			t.Fatalf("%s (%v); log: %s", out, err, m.Read("c/log"))
		}
		Eventually(t, "it listens again", 10*time.Second, func() bool { return m.Read("c/state") == "listening" })
	}
}

// Stop does not wait for clients, as net.idle does: who stops a container that should have ended for idleness, and did not, has it killed.
func TestListenStopAfterIdle(t *testing.T) {
	m := MountFor(t)
	address := m.listen("web", "-ignore", "net.idle", "1", "stop.timeout", "1")
	wantAnswer(t, address, "x", "web x")
	Eventually(t, "it is told to stop", 10*time.Second, func() bool { return m.Read("web/state") == "stopping" })
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(2500 * time.Millisecond)
	if got := m.Read("web/state"); got != "stopping" {
		t.Errorf("it is %s while somebody is connected", got)
	}
	m.Write("web/stop", "1")
	if got := m.waitFor("web", Patiently(10*time.Second)); got != "137" {
		t.Errorf("exit %s", got)
	}
}

// A program that dies at once of the signal, as most do that know nothing of it, loses none either. Its clients come when it is looked
// at: so many quarters of a second after its start. It waits in accept, where the signal finds it.
func TestListenIdleAtTheMoment(t *testing.T) {
	m := MountFor(t)
	const containers, wakes = 6, 12
	const program = "python3 -c 'import socket\nprint(\"run\", flush=True)\ns = socket.socket(fileno=3)\nwhile True:\n c, _ = s.accept()\n c.sendall(c.recv(100))\n c.close()'"
	var lock sync.Mutex
	started := map[string]time.Time{}
	events := m.events()
	go func() {
		for e := range events {
			if e.Event == "start" {
				lock.Lock()
				started[e.Container] = e.Time
				lock.Unlock()
			}
		}
	}()
	var all sync.WaitGroup
	for i := range containers {
		name, port := fmt.Sprintf("c%d", i), freePort(t)
		init := fmt.Sprint(1 - i%2)
		m.Sh("mkdir %[1]s; printf %%b '%[2]s' > %[1]s/cmd; echo %[3]s > %[1]s/init; echo 1 > %[1]s/net.idle; echo 0 > %[1]s/stop.timeout; echo tcp %[4]d > %[1]s/net.listen; echo 1 > %[1]s/start",
			name, strings.ReplaceAll(strings.ReplaceAll(program, "\\", "\\\\"), "'", "'\\''"), init, port)
		all.Go(func() {
			address := fmt.Sprintf("127.0.0.1:%d", port)
			for n := 0; m.runs(name) <= wakes && n < 10*wakes; n++ {
				line := fmt.Sprint("client ", n)
				if got, err := ask("tcp", address, line); err != nil || got != line {
					t.Errorf("%s, init %s: %q (%v)", name, init, got, err)
					return
				}
				end := time.Now()
				time.Sleep(900 * time.Millisecond)
				lock.Lock()
				begin := started[name]
				lock.Unlock()
				due := begin.Add(end.Add(time.Second).Sub(begin).Truncate(250*time.Millisecond) + 250*time.Millisecond)
				time.Sleep(time.Until(due) + time.Duration(rand.IntN(9000)-1000)*time.Microsecond)
			}
			if n := m.runs(name); n <= wakes {
				t.Errorf("%s: only %d runs", name, n)
			}
		})
	}
	all.Wait()
}
