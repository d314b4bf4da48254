package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// world is a host of the test's own: no test touches the machine's links or sysctls.
type world struct {
	*Host
	t testing.TB
}

func newWorld(t testing.TB) world {
	t.Helper()
	requireRoot(t)
	home := self(t)
	w := world{t: t}
	ns := w.namespace()
	err := in(ns, func() (err error) {
		for _, f := range []string{"ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding", "ipv4/conf/default/forwarding"} {
			_, e := sysctl(f, "0")
			err = errors.Join(err, e)
		}
		if err == nil {
			w.Host, err = OpenHost()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if away := strays(t, home); away != "" {
			t.Error(away)
		}
	})
	return w
}

// namespace makes one that ends with the test.
func (w world) namespace() *os.File {
	w.t.Helper()
	ns, err := New()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ns.Close() })
	return ns
}

// in runs something in a namespace, which has to succeed.
func (w world) in(ns *os.File, do func() error) {
	w.t.Helper()
	if err := in(ns, do); err != nil {
		w.t.Fatal(err)
	}
}

func (w world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// value is a sysctl in a namespace; "-" if there is none.
func (w world) value(ns *os.File, name string) (value string) {
	w.t.Helper()
	w.in(ns, func() (err error) {
		if value, err = sysctlNow(name); errors.Is(err, os.ErrNotExist) {
			value, err = "-", nil
		}
		return err
	})
	return value
}

// find returns a link of the host; without an index if there is none.
func (w world) find(name string) (l link) {
	w.t.Helper()
	w.must(w.with(func(s *socket) error {
		links, err := s.links()
		for _, it := range links {
			if it.name == name {
				l = it
			}
		}
		return err
	}))
	return l
}

// names lists the host's links, without lo.
func (w world) names() string {
	w.t.Helper()
	var out []string
	w.must(w.with(func(s *socket) error {
		links, err := s.links()
		for _, l := range links {
			if l.name != "lo" {
				out = append(out, l.name)
			}
		}
		return err
	}))
	return strings.Join(out, " ")
}

func prefixes(text string) (out []netip.Prefix) {
	for _, f := range strings.Fields(text) {
		out = append(out, netip.MustParsePrefix(f))
	}
	return out
}

func addrs(text string) (out []netip.Addr) {
	for _, f := range strings.Fields(text) {
		out = append(out, netip.MustParseAddr(f))
	}
	return out
}

const (
	gateways = "10.88.0.1/24 fd00:88::1/64"
	vias     = "10.88.0.1 fd00:88::1"
)

// blue is a network of both families.
func blue() Bridge {
	return Bridge{Link: "ctrfs0", Alias: "ctrfs test blue", Gateways: prefixes(gateways)}
}

// container connects a new namespace to ctrfs0.
func (w world) container(n int) *os.File {
	w.t.Helper()
	ns := w.namespace()
	if _, err := w.Connect(ns, wire(n)); err != nil {
		w.t.Fatal(err)
	}
	return ns
}

// wire is a container's wire to ctrfs0: 10.88.0.N and fd00:88::N.
func wire(n int) Wire {
	return Wire{Name: "eth0", Bridge: "ctrfs0", Host: fmt.Sprintf("ctrfsw%d", n), Gateways: addrs(vias),
		Addresses: prefixes(fmt.Sprintf("10.88.0.%d/24 fd00:88::%x/64", n, n))}
}

const patience = 5 * time.Second

// ping sends one echo request and waits for the kernel's answer.
func (w world) ping(from *os.File, to string, size int) error {
	return w.pingFor(from, to, size, patience)
}

func (w world) pingFor(from *os.File, to string, size int, patience time.Duration) error {
	addr := netip.MustParseAddr(to)
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if addr.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	var c net.PacketConn
	if err := in(from, func() (err error) { c, err = net.ListenPacket(network, ""); return err }); err != nil {
		return err
	}
	defer c.Close()
	packet := append([]byte{request, 0, 0, 0, 0x12, 0x34, 0, 1}, bytes.Repeat([]byte("x"), size)...)
	if addr.Is4() {
		binary.BigEndian.PutUint16(packet[2:], checksum(packet))
	}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.WriteTo(packet, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
		return err
	}
	answer := make([]byte, 65536)
	for {
		n, _, err := c.ReadFrom(answer)
		if err != nil {
			return fmt.Errorf("ping %s with %d bytes: %w", to, size, err)
		}
		if n == len(packet) && answer[0] == reply && bytes.Equal(answer[4:n], packet[4:]) {
			return nil
		}
	}
}

func checksum(b []byte) uint16 {
	var sum uint32
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

// datagram sends one from a namespace to an address of another, and back.
func (w world) datagram(from, at *os.File, to string, size int) error {
	var server, client net.PacketConn
	err := in(at, func() (err error) {
		server, err = net.ListenPacket("udp", net.JoinHostPort(to, "0"))
		return err
	})
	if err != nil {
		return err
	}
	defer server.Close()
	if err := in(from, func() (err error) { client, err = net.ListenPacket("udp", ":0"); return err }); err != nil {
		return err
	}
	defer client.Close()
	server.SetDeadline(time.Now().Add(patience))
	client.SetDeadline(time.Now().Add(patience))
	sent := bytes.Repeat([]byte("d"), size)
	if _, err := client.WriteTo(sent, server.LocalAddr()); err != nil {
		return err
	}
	got := make([]byte, 65536)
	n, peer, err := server.ReadFrom(got)
	if err == nil && !bytes.Equal(got[:n], sent) {
		err = fmt.Errorf("%d bytes of %d arrived", n, size)
	}
	if err == nil {
		_, err = server.WriteTo(got[:n], peer)
	}
	if err == nil {
		n, _, err = client.ReadFrom(got)
	}
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes of %d came back", n, size)
	}
	if err != nil {
		return fmt.Errorf("a datagram of %d bytes to %s: %w", size, to, err)
	}
	return nil
}

// stream sends bytes over TCP from a namespace to an address of another, and returns how long it took.
func (w world) stream(from, at *os.File, to string, size int) (time.Duration, error) {
	var l net.Listener
	err := in(at, func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(to, "0")); return err })
	if err != nil {
		return 0, err
	}
	defer l.Close()
	type result struct {
		n   int64
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- result{0, err}
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(4 * patience))
		n, err := io.Copy(io.Discard, c)
		done <- result{n, err}
	}()
	var c net.Conn
	err = in(from, func() (err error) { c, err = net.DialTimeout("tcp", l.Addr().String(), patience); return err })
	if err != nil {
		return 0, err
	}
	c.SetDeadline(time.Now().Add(4 * patience))
	start := time.Now()
	_, err = c.Write(make([]byte, size))
	c.Close()
	r := <-done
	if err = errors.Join(err, r.err); err == nil && r.n != int64(size) {
		err = fmt.Errorf("%d of %d bytes arrived at %s", r.n, size, to)
	}
	return time.Since(start), err
}

// refused wants an errno.
func (w world) refused(err error, errno unix.Errno) {
	w.t.Helper()
	if !errors.Is(err, errno) {
		w.t.Errorf("got %v, not %v", err, errno)
	}
}
