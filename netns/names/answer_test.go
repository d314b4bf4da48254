package names

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestOwnNames: what the network answers itself, by UDP and by TCP, with and without an outside.
func TestOwnNames(t *testing.T) {
	u := serveUpstream(t, echo)
	_, open := start(t, Config{Upstream: list(u)})
	_, internal := start(t, Config{})
	for _, c := range []struct {
		name string
		t    uint16
		want string
	}{
		{"web", dns.TypeA, "NOERROR aa rd ra | web. 5 IN A 10.9.0.2"},
		{"web", dns.TypeAAAA, "NOERROR aa rd ra | web. 5 IN AAAA fd09::2"},
		{"WeB", dns.TypeA, "NOERROR aa rd ra | WeB. 5 IN A 10.9.0.2"},
		{"web.blue", dns.TypeA, "NOERROR aa rd ra | web.blue. 5 IN A 10.9.0.2"},
		{"four", dns.TypeAAAA, "NOERROR aa rd ra"},
		{"six", dns.TypeA, "NOERROR aa rd ra"},
		{"none", dns.TypeA, "NOERROR aa rd ra"},
		{"web", dns.TypeMX, "NOERROR aa rd ra"},
		{"web", dns.TypeHTTPS, "NOERROR aa rd ra"},
		{"localhost", dns.TypeA, "NOERROR aa rd ra | localhost. 5 IN A 127.0.0.1"},
		{"a.localhost", dns.TypeAAAA, "NOERROR aa rd ra | a.localhost. 5 IN AAAA ::1"},
		{"2.0.9.10.in-addr.arpa", dns.TypePTR, "NOERROR aa rd ra | 2.0.9.10.in-addr.arpa. 5 IN PTR web. | 2.0.9.10.in-addr.arpa. 5 IN PTR www."},
		{"2.0.9.10.in-addr.arpa", dns.TypeTXT, "NOERROR aa rd ra"},
		{"3.0.9.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN aa rd ra"},
		{mustReverse(t, "fd09::2"), dns.TypePTR, "NOERROR aa rd ra | " + mustReverse(t, "fd09::2") + " 5 IN PTR web."},
		{mustReverse(t, "fd09::3"), dns.TypePTR, "NXDOMAIN aa rd ra"},
		{"web", dns.TypeANY, "NOTIMP rd ra"},
		{"web", dns.TypeAXFR, "REFUSED rd ra"},
		{"web", dns.TypeIXFR, "REFUSED rd ra"},
		{"example.org", dns.TypeTKEY, "REFUSED rd ra"},
		{"example.org", dns.TypeANY, "NOTIMP rd ra"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			// The library's client reads one message, also of a transfer.
			if got := render(exchange(t, network, "", open, question(c.name, c.t))); got != c.want {
				t.Errorf("%s %s %s:\n got %s\nwant %s", network, c.name, dns.TypeToString[c.t], got, c.want)
			}
			want := strings.Replace(c.want, " ra", "", 1)
			if got := render(exchange(t, network, "", internal, question(c.name, c.t))); got != want {
				t.Errorf("internal, %s %s %s:\n got %s\nwant %s", network, c.name, dns.TypeToString[c.t], got, want)
			}
		}
	}
	if n := u.udp.Load() + u.tcp.Load(); n != 0 {
		t.Errorf("%d of them left the network", n)
	}
}

func mustReverse(t *testing.T, addr string) string {
	t.Helper()
	name, err := dns.ReverseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// TestBits: what a query asks for in its header and in EDNS.
func TestBits(t *testing.T) {
	_, server := start(t, Config{Upstream: list(serveUpstream(t, echo))})
	for _, c := range []struct {
		what   string
		change func(q *dns.Msg)
		want   string
	}{
		{"EDNS", func(q *dns.Msg) { q.SetEdns0(1400, false) }, "NOERROR aa rd ra | web. 5 IN A 10.9.0.2 | edns 4096"},
		{"DO", func(q *dns.Msg) { q.SetEdns0(1400, true) }, "NOERROR aa rd ra | web. 5 IN A 10.9.0.2 | edns 4096 do"},
		{"CD", func(q *dns.Msg) { q.CheckingDisabled = true }, "NOERROR aa rd ra cd | web. 5 IN A 10.9.0.2"},
		{"AD is for who validates", func(q *dns.Msg) { q.AuthenticatedData = true }, "NOERROR aa rd ra | web. 5 IN A 10.9.0.2"},
		{"no RD", func(q *dns.Msg) { q.RecursionDesired = false }, "NOERROR aa ra | web. 5 IN A 10.9.0.2"},
		{"CHAOS", func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }, "REFUSED rd ra"},
		// 16 has two names: BADVERS in EDNS, BADSIG in TSIG.
		{"EDNS 1", func(q *dns.Msg) { q.SetEdns0(1400, false); q.IsEdns0().SetVersion(1) }, "BADSIG rd ra | edns 4096"},
		{"two OPTs", func(q *dns.Msg) { q.SetEdns0(1400, false); q.Extra = append(q.Extra, q.Extra[0]) }, "FORMERR rd"},
		{"NOTIFY", func(q *dns.Msg) { q.Opcode = dns.OpcodeNotify }, "NOTIMP rd"},
		{"UPDATE", func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }, "NOTIMP rd"},
		{"two questions", func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }, "FORMERR rd"},
		{"an answer", func(q *dns.Msg) { q.Answer = append(q.Answer, a(q, "192.0.2.1")) }, "FORMERR rd"},
	} {
		q := question("web", dns.TypeA)
		c.change(q)
		if got := render(exchange(t, "udp", "", server, q)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, got, c.want)
		}
	}
}

// TestAsker: the zone decides by who asks; a name that an asker may not use is like any other.
func TestAsker(t *testing.T) {
	_, server := start(t, Config{})
	if got := render(exchange(t, "udp", "127.0.0.9", server, question("web", dns.TypeA))); got != "NXDOMAIN aa rd" {
		t.Error(got)
	}
	if got := render(exchange(t, "udp", "127.0.0.8", server, question("web", dns.TypeA))); got != "NOERROR aa rd | web. 5 IN A 10.9.0.2" {
		t.Error(got)
	}
}

// TestSizes: 200 addresses do not fit into 512 bytes, and not into what EDNS says either; by TCP they are all there.
func TestSizes(t *testing.T) {
	_, server := start(t, Config{})
	for _, size := range []int{0, 512, 1232, 4096, 65535} {
		q := question("many", dns.TypeA)
		limit := 512
		if size > 0 {
			q.SetEdns0(uint16(size), false)
			limit = size
		}
		reply := exchange(t, "udp", "", server, q)
		reply.Compress = true
		whole := len(reply.Answer) == 200
		if reply.Len() > limit || reply.Truncated == whole || len(reply.Answer) == 0 || whole != (limit >= 4096) {
			t.Errorf("EDNS %d: %d bytes, %d addresses, tc %v", size, reply.Len(), len(reply.Answer), reply.Truncated)
		}
		if reply := exchange(t, "tcp", "", server, q); len(reply.Answer) != 200 || reply.Truncated {
			t.Errorf("by TCP: %d addresses, tc %v", len(reply.Answer), reply.Truncated)
		}
	}
}

// TestNoReply: what is no query gets no reply, and does no harm.
func TestNoReply(t *testing.T) {
	r, server := start(t, Config{})
	c, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := question("web", dns.TypeA)
	q.Response = true
	response, _ := q.Pack()
	for _, b := range [][]byte{response, {}, {1}, response[:11], make([]byte, queryMax+1), make([]byte, 60000)} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := c.Read(make([]byte, 512)); err == nil {
		t.Errorf("a reply of %d bytes", n)
	}
	if s := r.Stats(); s.Asked != 0 || s.Answered != 0 || s.Dropped != 6 {
		t.Errorf("%+v", s)
	}
	exchange(t, "udp", "", server, question("web", dns.TypeA))
}

// TestErrors: the errno of a socket is kept, and nothing is left open.
func TestErrors(t *testing.T) {
	_, server := start(t, Config{})
	at := netip.MustParseAddrPort(server)
	if _, err := Serve(Config{Addresses: []netip.Addr{ip("127.9.0.2"), gateway}, Port: at.Port(), Zone: testZone()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error(err)
	}
	if _, err := Serve(Config{Addresses: []netip.Addr{gateway}, Port: freePort(t, gateway), Link: "no-such-link", Zone: testZone()}); !errors.Is(err, syscall.ENODEV) {
		t.Error(err)
	}
	r, err := Serve(Config{Addresses: []netip.Addr{ip("127.9.0.2")}, Port: at.Port(), Zone: testZone()})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	r.Close()
	// An address that is not there yet.
	r, err = Serve(Config{Addresses: []netip.Addr{ip("192.0.2.53"), ip("2001:db8::53")}, Port: at.Port(), Zone: testZone()})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

// TestManyNames: 200 names, by several askers at a time, and by IPv6.
func TestManyNames(t *testing.T) {
	z := testZone()
	_, server := start(t, Config{Zone: z, Addresses: []netip.Addr{ip("::1")}})
	_, four := start(t, Config{Zone: z})
	done := make(chan error, 8)
	for worker := range cap(done) {
		go func() {
			for name, addrs := range z.addrs {
				if len(addrs) != 1 || !addrs[0].Is4() {
					continue
				}
				at := server
				if worker%2 == 0 {
					at = four
				}
				reply, err := tryExchange("udp", "", at, question(name, dns.TypeA), 5*time.Second)
				if err == nil && render(reply) != "NOERROR aa rd | "+name+". 5 IN A "+addrs[0].String() {
					err = errors.New(render(reply))
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestReverseName(t *testing.T) {
	for name, want := range map[string]string{
		"4.3.2.1.in-addr.arpa": "1.2.3.4", "3.2.1.in-addr.arpa": "", "256.3.2.1.in-addr.arpa": "", "5.4.3.2.1.in-addr.arpa": "", "in-addr.arpa": "",
		"04.3.2.1.in-addr.arpa": "", "web": "",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "2001:db8::1",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.ip6.arpa":   "",
		"g.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.002.ip6.arpa": "",
		"ip6.arpa": "",
	} {
		addr, ok := reverseName(name)
		if ok != (want != "") || ok && addr.String() != want {
			t.Errorf("%s: %s %v", name, addr, ok)
		}
	}
}
