//go:build linux

// Command peer is one end of what the tests of networks send: a server that says whom it has seen, and clients that say what they got.
// It runs in containers, and beside them in network namespaces that stand for this machine and for the world.
//
//	peer serve NAME [PORT]     answers TCP and UDP on a port, 80, of all addresses: "NAME CLIENT-ADDRESS"; a datagram has as long an answer
//	peer tcp ADDRESS:PORT      prints that answer
//	peer udp ADDRESS:PORT SIZE prints it, of a datagram of SIZE bytes
//	peer ping ADDRESS SIZE     prints "answered"
//	peer name NAME             prints its addresses
//	peer owner ADDRESS         prints its names
//	peer ask NAME COUNT        asks for the addresses of NAME so often, and prints how long the median and the slowest answer took
//	peer flood ADDRESS:PORT    sends questions about names as fast as it can, until it is killed
//	peer sink PORT             takes what is sent to it by TCP
//	peer push ADDRESS:PORT N   sends N bytes there, waits until they have been taken, and prints how many milliseconds that took
//	peer pull ADDRESS:PORT N   the same in the other direction
//	peer take PORT             takes a port of all addresses for a moment, and prints "taken"
//	peer escape ADDRESS...     tries everything to get a packet to these addresses
//	peer never QUESTION        is one of the above that nothing should answer, and does not wait long for that
//
// What goes wrong is printed, too, as "error: ...": an answer like any other. Several of these with ";" between them are done at the
// same time, and their answers are printed in their order.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// patience is how long an answer may take, and impatience how long one is waited for that should not come.
const (
	patience   = 2 * time.Second
	impatience = 300 * time.Millisecond
)

func main() {
	var answers []chan string
	for words := range splitSeq(os.Args[1:]) {
		answer := make(chan string, 1)
		answers = append(answers, answer)
		go func() { answer <- do(words) }()
	}
	for _, a := range answers {
		fmt.Println(<-a)
	}
}

// splitSeq yields what is between semicolons.
func splitSeq(args []string) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(args) > 0 {
			n := slices.Index(args, ";")
			if n < 0 {
				n = len(args)
			}
			if !yield(args[:n]) {
				return
			}
			args = args[min(n+1, len(args)):]
		}
	}
}

func do(words []string) string {
	args, wait := append(slices.Clone(words), "", "", ""), patience
	if args[0] == "never" {
		args, words, wait = args[1:], words[1:], impatience
	}
	var text string
	var err error
	switch args[0] {
	case "serve":
		err = serve(args[1], args[2])
	case "tcp":
		text, err = tcp(args[1], wait)
	case "udp":
		text, err = udp(args[1], number(args[2]), wait)
	case "ping":
		text, err = ping(args[1], number(args[2]), wait)
	case "name":
		text, err = look(args[1], net.DefaultResolver.LookupHost)
	case "owner":
		text, err = look(args[1], net.DefaultResolver.LookupAddr)
	case "ask":
		text, err = ask(args[1], number(args[2]))
	case "flood":
		err = flood(args[1])
	case "sink":
		err = sink(args[1])
	case "push", "pull":
		text, err = transfer(args[0], args[1], number(args[2]))
	case "take":
		var l net.Listener
		if l, err = net.Listen("tcp", ":"+args[1]); err == nil {
			text, err = "taken", l.Close()
		}
	case "escape":
		escape(words[1:])
	default:
		err = fmt.Errorf("no verb %q", args[0])
	}
	if err != nil {
		return "error: " + reason(err)
	}
	return text
}

// reason is an error without the addresses that differ from one run to the next.
func reason(err error) string {
	var errno syscall.Errno
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &errno):
		return errno.Error()
	}
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return "timeout"
	}
	return err.Error()
}

func number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// serve answers until it is killed.
func serve(name, port string) error {
	if port == "" {
		port = "80"
	}
	at := ":" + port
	stream, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", at)
	if err != nil {
		return err
	}
	fmt.Println("up")
	go func() {
		for {
			c, err := stream.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s\n", name, host(c.RemoteAddr()))
			c.Close()
		}
	}()
	buf := make([]byte, 1<<16)
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			return err
		}
		answer := make([]byte, n)
		copy(answer, name+" "+host(from)+"\n")
		if _, err := packets.WriteTo(answer, from); err != nil {
			fmt.Println("error:", err)
		}
	}
}

func host(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return at.Addr().Unmap().String()
}

func tcp(to string, wait time.Duration) (string, error) {
	c, err := net.DialTimeout("tcp", to, wait)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	text, err := io.ReadAll(c)
	return strings.TrimSpace(string(text)), err
}

func udp(to string, size int, wait time.Duration) (string, error) {
	c, err := net.Dial("udp", to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	question := make([]byte, max(size, 64))
	if _, err := c.Write(question); err != nil {
		return "", err
	}
	answer := make([]byte, 1<<16)
	c.SetDeadline(time.Now().Add(wait))
	n, err := c.Read(answer)
	if err != nil {
		return "", err
	}
	if n != len(question) {
		return "", fmt.Errorf("%d bytes came back of %d", n, len(question))
	}
	line, _, _ := strings.Cut(string(answer[:n]), "\n")
	return line, nil
}

// The types of ICMP, RFC 792 and RFC 4443.
const (
	echo4, reply4 = 8, 0
	echo6, reply6 = 128, 129
)

var pings atomic.Int32 // each of a process has its own number

func ping(to string, size int, wait time.Duration) (string, error) {
	addr, err := netip.ParseAddr(to)
	if err != nil {
		return "", err
	}
	network, echo, reply := "ip4:icmp", byte(echo4), byte(reply4)
	if addr.Is6() {
		network, echo, reply = "ip6:ipv6-icmp", echo6, reply6
	}
	c, err := net.ListenPacket(network, "")
	if err != nil {
		return "", err
	}
	defer c.Close()
	question := make([]byte, 8+size)
	question[0] = echo
	binary.BigEndian.PutUint16(question[4:], uint16(os.Getpid()))
	binary.BigEndian.PutUint16(question[6:], uint16(pings.Add(1)))
	binary.BigEndian.PutUint16(question[2:], checksum(question)) // of IPv6 the kernel makes its own
	if _, err := c.WriteTo(question, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
		return "", err
	}
	c.SetDeadline(time.Now().Add(wait))
	for buf := make([]byte, 1<<16); ; {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return "", err
		}
		if n == len(question) && buf[0] == reply && from.String() == to && string(buf[4:n]) == string(question[4:]) {
			return "answered", nil
		}
	}
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// look asks for the addresses of a name, or the names of an address.
func look(x string, of func(context.Context, string) ([]string, error)) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	found, err := of(ctx, x)
	var failed *net.DNSError
	if errors.As(err, &failed) && failed.IsNotFound {
		return "none", nil
	}
	slices.Sort(found)
	return strings.Join(slices.Compact(found), " "), err
}

func ask(name string, count int) (string, error) {
	var took []time.Duration
	for end := time.Now().Add(10 * patience); len(took) < count; {
		begin := time.Now()
		if begin.After(end) {
			return "", os.ErrDeadlineExceeded
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
		_, err := net.DefaultResolver.LookupHost(ctx, name)
		cancel()
		if err != nil {
			return "", err
		}
		took = append(took, time.Since(begin))
		time.Sleep(2 * time.Millisecond)
	}
	slices.Sort(took)
	return fmt.Sprint(took[len(took)/2].Milliseconds(), " ", took[len(took)-1].Milliseconds()), nil
}

// question is a query for the A records of other: RFC 1035, section 4.
const question = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05other\x00\x00\x01\x00\x01"

func flood(to string) error {
	c, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	for {
		c.Write([]byte(question)) // that nobody listens any more is no reason to stop
	}
}

// sink takes bytes after eight that say how many, and sends as many zeros where their highest bit says so.
func sink(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	fmt.Println("up")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			var head [8]byte
			if _, err := io.ReadFull(c, head[:]); err != nil {
				return
			}
			n := binary.BigEndian.Uint64(head[:])
			if n&pulled != 0 {
				io.CopyN(c, zeros{}, int64(n&^pulled))
			} else if _, err := io.CopyN(io.Discard, c, int64(n)); err == nil {
				c.Write([]byte("."))
			}
		}()
	}
}

const pulled = 1 << 63

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func transfer(verb, to string, n int) (string, error) {
	c, err := net.DialTimeout("tcp", to, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	head, what := make([]byte, 8), uint64(n)
	if verb == "pull" {
		what |= pulled
	}
	binary.BigEndian.PutUint64(head, what)
	begin := time.Now()
	if _, err := c.Write(head); err != nil {
		return "", err
	}
	if verb == "pull" {
		_, err = io.CopyN(io.Discard, c, int64(n))
	} else if _, err = io.CopyN(c, zeros{}, int64(n)); err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	return fmt.Sprint(time.Since(begin).Milliseconds()), err
}
