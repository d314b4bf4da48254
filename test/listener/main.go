// Listener is a server for tests that gets its sockets as sd_listen_fds(3) says, and answers each line with the name of the socket that it
// came by, and itself. It writes "run" when it begins, and ends as a careful server does: SIGTERM closes the sockets, and what has been
// accepted is answered.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	start  = flag.Duration("start", 0, "how long it takes to begin")
	most   = flag.Int("n", 0, "end after so many connections")
	ignore = flag.Bool("ignore", false, "take no notice of SIGTERM")
	fail   = flag.Bool("fail", false, "end at once, with 3")
)

func main() {
	flag.Parse()
	fmt.Println("run")
	if *fail {
		os.Exit(3)
	}
	names, err := environment()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := onlyThese(len(names)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	time.Sleep(*start)
	serve(names, stop)
}

// environment reads the three variables, and refuses them unless they are meant for this process.
func environment() ([]string, error) {
	if pid := os.Getenv("LISTEN_PID"); pid != strconv.Itoa(os.Getpid()) {
		return nil, fmt.Errorf("LISTEN_PID is %q, and the pid %d", pid, os.Getpid())
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if n := os.Getenv("LISTEN_FDS"); n != strconv.Itoa(len(names)) {
		return nil, fmt.Errorf("LISTEN_FDS is %q, and there are %d names", n, len(names))
	}
	return names, nil
}

// onlyThese refuses every further socket.
func onlyThese(n int) error {
	for fd := range 64 {
		to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		socket := err == nil && strings.HasPrefix(to, "socket:")
		if socket != (fd >= 3 && fd < 3+n) {
			return fmt.Errorf("descriptor %d is %q (%v), and %d sockets were given", fd, to, err, n)
		}
	}
	return nil
}

// serve answers until it is told to end.
func serve(names []string, stop chan os.Signal) {
	var closers []interface{ Close() error }
	var accepting, answering sync.WaitGroup
	left := make(chan struct{}, 1<<20)
	for i, name := range names {
		f := os.NewFile(uintptr(3+i), name)
		kind, _ := syscall.GetsockoptInt(3+i, syscall.SOL_SOCKET, syscall.SO_TYPE)
		if l, err := net.FileListener(f); err == nil && kind == syscall.SOCK_STREAM {
			if u, ok := l.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false) // it is not this one's
			}
			closers = append(closers, l)
			accepting.Go(func() { accept(l, name, &answering, left) })
		} else if p, err := net.FilePacketConn(f); err == nil {
			closers = append(closers, p)
			accepting.Go(func() { receive(p, name) })
		} else {
			fmt.Println(name, err)
			os.Exit(1)
		}
	}
	for n := 0; *most == 0 || n < *most; {
		select {
		case <-left:
			n++
			continue
		case <-stop:
			if *ignore {
				continue
			}
		}
		break
	}
	for _, c := range closers {
		c.Close()
	}
	accepting.Wait()
	answering.Wait()
}

func accept(l net.Listener, name string, answering *sync.WaitGroup, left chan struct{}) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		answering.Go(func() {
			defer func() { left <- struct{}{} }()
			defer c.Close()
			for in := bufio.NewScanner(c); in.Scan(); {
				fmt.Fprintf(c, "%s %s\n", name, in.Text())
			}
		})
	}
}

func receive(p net.PacketConn, name string) {
	b := make([]byte, 2048)
	for {
		n, from, err := p.ReadFrom(b)
		if err != nil {
			return
		}
		fmt.Println("got", string(b[:n]))
		if from != nil && from.String() != "" {
			p.WriteTo([]byte(name+" "+string(b[:n])), from)
		}
	}
}
