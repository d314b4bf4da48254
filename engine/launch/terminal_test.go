package launch_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// onTerminal is a plan that shows this machine's tree with a /dev of its own, and executes a shell's command on a terminal.
func onTerminal(command string) []plan.Step {
	return []plan.Step{plan.Clone{Namespaces: []specs.LinuxNamespaceType{specs.MountNamespace}}, plan.Session{}, plan.Private{},
		plan.Mount{Type: "tmpfs", Target: "/dev", Exists: true},
		plan.Mount{Type: "devpts", Target: "/dev/pts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		plan.Terminal{Size: engine.TerminalSize{Columns: 100, Rows: 30}, UID: 7}, plan.Stdio{Terminal: true}, plan.CloseRest{},
		plan.Exec{Candidates: []string{"/bin/sh"}, Args: []string{"sh", "-c", command}, Env: []string{"PATH=/bin:/usr/bin"}}}
}

// TestTerminal: the program is the leader of a session on a terminal of the devpts that its own plan has mounted, has nothing
// else open, and the other end comes out of the socket.
func TestTerminal(t *testing.T) {
	requireRoot(t)
	t.Chdir("/") // what a plan without a root takes for it
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(pair[0]), "socket")
	defer socket.Close()
	defer unix.Close(pair[1])
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	const command = "tty; stty size; stat -c '%t:%T %u:%g %a' /dev/pts/0 /dev/console; cut -d' ' -f7 /proc/$$/stat; ls /dev /proc/$$/fd"
	program, err := launch.Assemble(onTerminal(command), launch.Files{Null: null, Terminal: socket})
	if err != nil {
		t.Fatal(err)
	}
	if failure, status := run(t, program, time.Minute); failure != nil || status != 0 {
		t.Fatal(failure, status)
	}
	master := received(t, pair[1])
	defer unix.Close(master)
	var out strings.Builder
	for chunk := make([]byte, 4096); ; {
		n, err := unix.Read(master, chunk)
		if err == unix.EIO {
			break // nobody has the other end open: the program had all of them
		}
		if err != nil {
			t.Fatal(err)
		}
		out.Write(chunk[:n])
	}
	const want = "/dev/pts/0 30 100 88:0 7:5 620 88:0 7:5 620 34816 /dev: console pts /proc/PID/fd: 0 1 2"
	got := strings.Join(strings.Fields(out.String()), " ")
	if before, after, ok := strings.Cut(got, "/proc/"); ok {
		_, after, _ = strings.Cut(after, "/")
		got = before + "/proc/PID/" + after
	}
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// received takes a descriptor out of a socket.
func received(t *testing.T, socket int) int {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	return fds[0]
}
