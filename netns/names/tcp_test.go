package names

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// framed is a query as it goes over TCP.
func framed(t testing.TB, q *dns.Msg) []byte {
	t.Helper()
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func dialTCP(t testing.TB, from, server string) *net.TCPConn {
	t.Helper()
	c, err := dialer("tcp", from, 5*time.Second).Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(15 * time.Second))
	return c.(*net.TCPConn)
}

func readFramed(c net.Conn) (*dns.Msg, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	return m, m.Unpack(b)
}

// closed waits until the other side has ended a connection.
func closed(c net.Conn) error {
	if n, err := c.Read(make([]byte, 1)); err == nil {
		return fmt.Errorf("%d bytes", n)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// connections is how many the resolver serves at the moment.
func connections(r *Resolver) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// eventually waits a moment for something to become true.
func eventually(t testing.TB, what string, true func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// TestManyQueries: several on a connection, also sent at once, own and forwarded ones; and a query in pieces.
func TestManyQueries(t *testing.T) {
	_, server := start(t, Config{Upstream: list(serveUpstream(t, echo))})
	c := dialTCP(t, "", server)
	var all []byte
	for i := range 50 {
		q := question("web", dns.TypeA)
		if i%5 == 0 {
			q = question("example.org", dns.TypeA)
		}
		q.Id = uint16(i)
		all = append(all, framed(t, q)...)
	}
	for i := 0; i < len(all); i += 97 {
		c.Write(all[i:min(i+97, len(all))])
		time.Sleep(time.Millisecond)
	}
	for i := range 50 {
		if m, err := readFramed(c); err != nil || m.Id != uint16(i) || len(m.Answer) != 1 {
			t.Fatal(i, m, err)
		}
	}
}

// TestHalfClosed: a peer that ends its half gets what it asked for, and then the connection is gone: nothing spins on it.
func TestHalfClosed(t *testing.T) {
	r, server := start(t, Config{Upstream: list(serveUpstream(t, echo))})
	before := cpu(t)
	for _, sent := range [][]byte{nil, {0}, {0, 20, 1}, framed(t, question("web", dns.TypeA)), append(framed(t, question("example.org", dns.TypeA)), 0)} {
		for range 3 {
			c := dialTCP(t, "", server)
			c.Write(sent)
			c.CloseWrite()
			if len(sent) > 3 {
				if m, err := readFramed(c); err != nil || len(m.Answer) != 1 {
					t.Error(m, err)
				}
			}
			if err := closed(c); err != nil {
				t.Errorf("%d bytes: %v", len(sent), err)
			}
		}
	}
	eventually(t, "a connection is left", func() bool { return connections(r) == 0 })
	time.Sleep(200 * time.Millisecond)
	if used := cpu(t) - before; used > 150*time.Millisecond {
		t.Errorf("%v of processor time", used)
	}
}

// TestRude: connections that break the rules end at once.
func TestRude(t *testing.T) {
	r, server := start(t, Config{})
	response := question("web", dns.TypeA)
	response.Response = true
	for _, sent := range [][]byte{{0xff, 0xff, 1}, {0, 0}, {0, 3, 1, 2, 3}, framed(t, response), []byte("GET / HTTP/1.1\r\n\r\n")} {
		c := dialTCP(t, "", server)
		c.Write(sent)
		if err := closed(c); err != nil {
			t.Errorf("%q: %v", sent, err)
		}
	}
	eventually(t, "a connection is left", func() bool { return connections(r) == 0 })
}

// TestIdle: one that says nothing, one that says a byte now and then, one that does not read.
func TestIdle(t *testing.T) {
	t.Parallel()
	r, server := start(t, Config{})
	silent, slow, deaf := dialTCP(t, "", server), dialTCP(t, "", server), dialTCP(t, "", server)
	began := time.Now()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for _, b := range framed(t, question("web", dns.TypeA)) {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
			slow.Write([]byte{b})
		}
	}()
	go func() {
		q := framed(t, question("many", dns.TypeA))
		for {
			if _, err := deaf.Write(q); err != nil {
				return
			}
		}
	}()
	silent.SetDeadline(time.Now().Add(idleTime + 5*time.Second))
	if err := closed(silent); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < idleTime-time.Second {
		t.Errorf("closed after %v", took)
	}
	eventually(t, "a connection is left", func() bool { return connections(r) == 0 })
}

// TestConnections: an asker has so many, and leaves others for others; Close ends them.
func TestConnections(t *testing.T) {
	r, server := start(t, Config{Limits: Limits{Conns: 20, ConnsEach: 8}})
	for _, c := range []struct {
		from string
		want int
	}{{"127.0.0.2", 8}, {"127.0.0.3", 6}, {"127.0.0.4", 3}, {"127.0.0.5", 2}, {"127.0.0.6", 1}, {"127.0.0.7", 0}} {
		good := 0
		for range 10 {
			conn, err := dialer("tcp", c.from, 5*time.Second).Dial("tcp", server)
			if err != nil {
				continue
			}
			t.Cleanup(func() { conn.Close() })
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			conn.Write(framed(t, question("web", dns.TypeA)))
			if _, err := readFramed(conn); err == nil {
				good++
			}
		}
		if good != c.want {
			t.Errorf("%s has %d connections, not %d", c.from, good, c.want)
		}
	}
	began := time.Now()
	r.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	if n := connections(r); n != 0 || r.conns.free != 20 {
		t.Errorf("%d connections are left, %d slots free", n, r.conns.free)
	}
}

// TestClose: with forwards in flight and connections open it takes a moment, and no goroutine stays.
func TestClose(t *testing.T) {
	silent := serveUpstream(t, func(dns.ResponseWriter, *dns.Msg) {})
	time.Sleep(50 * time.Millisecond)
	before := runtime.NumGoroutine()
	r, err := Serve(Config{Addresses: []netip.Addr{gateway}, Port: freePort(t, gateway), Zone: testZone(), Upstream: list(silent)})
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(gateway, r.config.Port).String()
	for i := range 10 {
		q := framed(t, question("example.org", dns.TypeA))
		c := dialTCP(t, fmt.Sprintf("127.0.0.%d", i%5+1), at)
		c.Write(q)
		u, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		u.Write(q[2:])
	}
	eventually(t, "the forwards do not begin", func() bool { return r.forwarded.Load() == 20 })
	if n := runtime.NumGoroutine() - before; n > 2+20+10+25 { // the upstream's own included
		t.Errorf("%d goroutines", n)
	}
	began := time.Now()
	r.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	eventually(t, "goroutines are left", func() bool { return runtime.NumGoroutine() <= before })
	if r.flying.free != r.config.Limits.Forwards {
		t.Errorf("%d slots of forwards", r.flying.free)
	}
}
