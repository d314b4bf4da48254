package names

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// zone is a network of tests: names, who may not use them, and subnets.
type zone struct {
	addrs   map[string][]netip.Addr
	hidden  map[netip.Addr]string // a name that an asker may not use
	names   map[netip.Addr][]string
	subnets []netip.Prefix
}

func (z *zone) Lookup(asker netip.Addr, name string) ([]netip.Addr, bool) {
	if z.hidden[asker] == name {
		return nil, false
	}
	addrs, ok := z.addrs[name]
	return addrs, ok
}

func (z *zone) Reverse(_, addr netip.Addr) ([]string, bool) {
	for _, s := range z.subnets {
		if s.Contains(addr) {
			return z.names[addr], true
		}
	}
	return nil, false
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// testZone has web with both families, four and six with one, none with neither, many with 200 addresses, n0 to n199 with one each;
// 127.0.0.1 to 127.0.0.9 are members.
func testZone() *zone {
	z := &zone{
		addrs: map[string][]netip.Addr{
			"web": {ip("10.9.0.2"), ip("fd09::2")}, "four": {ip("10.9.0.4")}, "six": {ip("fd09::6")}, "none": nil, "web.blue": {ip("10.9.0.2")},
		},
		hidden:  map[netip.Addr]string{ip("127.0.0.9"): "web"},
		names:   map[netip.Addr][]string{ip("10.9.0.2"): {"web", "www"}, ip("fd09::2"): {"web"}},
		subnets: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("fd09::/64"), netip.MustParsePrefix("127.0.0.0/24")},
	}
	for i := range 200 {
		a := netip.AddrFrom4([4]byte{10, 9, 1, byte(i)})
		z.addrs["many"] = append(z.addrs["many"], a)
		z.addrs[fmt.Sprintf("n%d", i)] = []netip.Addr{a}
	}
	for i := 1; i < 10; i++ {
		z.names[netip.AddrFrom4([4]byte{127, 0, 0, byte(i)})] = []string{fmt.Sprintf("asker%d", i)}
	}
	return z
}

var gateway = ip("127.9.0.1")

// start serves at 127.9.0.1, and at a port that is free.
func start(t testing.TB, c Config) (*Resolver, string) {
	t.Helper()
	if c.Addresses == nil {
		c.Addresses = []netip.Addr{gateway}
	}
	if c.Zone == nil {
		c.Zone = testZone()
	}
	for try := 0; ; try++ {
		c.Port = freePort(t, c.Addresses[0])
		r, err := Serve(c)
		if err == nil {
			t.Cleanup(func() { r.Close() })
			return r, netip.AddrPortFrom(c.Addresses[0], c.Port).String()
		}
		if try > 10 {
			t.Fatal(err)
		}
	}
}

func freePort(t testing.TB, a netip.Addr) uint16 {
	t.Helper()
	c, err := net.ListenPacket("udp", netip.AddrPortFrom(a, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return netip.MustParseAddrPort(c.LocalAddr().String()).Port()
}

// upstream is a server of the host. It counts what it is asked.
type upstream struct {
	at       netip.AddrPort
	udp, tcp atomic.Int64
}

// serveUpstream starts one at an address of loopback with a port of its own, by UDP and TCP.
func serveUpstream(t testing.TB, handle func(w dns.ResponseWriter, q *dns.Msg)) *upstream {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.8.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", p.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{at: netip.MustParseAddrPort(p.LocalAddr().String())}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if overTCP(w) {
			u.tcp.Add(1)
		} else {
			u.udp.Add(1)
		}
		handle(w, q)
	})
	for _, s := range []*dns.Server{{PacketConn: p, Handler: h, UDPSize: 4096}, {Listener: l, Handler: h}} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go s.ActivateAndServe()
		<-up
		t.Cleanup(func() { s.Shutdown() })
	}
	return u
}

func overTCP(w dns.ResponseWriter) bool { return w.RemoteAddr().Network() == "tcp" }

func list(all ...*upstream) func() []netip.AddrPort {
	var at []netip.AddrPort
	for _, u := range all {
		at = append(at, u.at)
	}
	return func() []netip.AddrPort { return at }
}

// echo answers every A question with 203.0.113.7, and sets AD and RA.
func echo(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable, m.AuthenticatedData = true, q.AuthenticatedData
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = append(m.Answer, a(q, "203.0.113.7"))
	}
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(1232, o.Do())
	}
	w.WriteMsg(m)
}

func a(q *dns.Msg, addr string) dns.RR {
	return &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(addr)}
}

// question makes a query as resolvers of C libraries do.
func question(name string, t uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), t)
	return m
}

// exchange asks from an address of loopback; empty is any.
func exchange(t testing.TB, network, from, server string, q *dns.Msg) *dns.Msg {
	t.Helper()
	reply, err := tryExchange(network, from, server, q, 8*time.Second)
	if err != nil {
		t.Fatalf("%s %s: %v", network, q.Question[0].String(), err)
	}
	return reply
}

func tryExchange(network, from, server string, q *dns.Msg, timeout time.Duration) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: timeout, UDPSize: 65535, Dialer: dialer(network, from, timeout)}
	reply, _, err := c.Exchange(q, server)
	return reply, err
}

func dialer(network, from string, timeout time.Duration) *net.Dialer {
	d := &net.Dialer{Timeout: timeout}
	if from != "" && network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip(from), 0))
	} else if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip(from), 0))
	}
	return d
}

// render is a reply in one line: code, flags, answers, and what is in additional.
func render(m *dns.Msg) string {
	var b strings.Builder
	b.WriteString(dns.RcodeToString[m.Rcode])
	for _, f := range []struct {
		set  bool
		name string
	}{
		{m.Authoritative, "aa"}, {m.Truncated, "tc"}, {m.RecursionDesired, "rd"}, {m.RecursionAvailable, "ra"},
		{m.AuthenticatedData, "ad"}, {m.CheckingDisabled, "cd"},
	} {
		if f.set {
			b.WriteString(" " + f.name)
		}
	}
	for _, rr := range m.Answer {
		b.WriteString(" | " + strings.ReplaceAll(rr.String(), "\t", " "))
	}
	if o := m.IsEdns0(); o != nil {
		fmt.Fprintf(&b, " | edns %d", o.UDPSize())
		if o.Do() {
			b.WriteString(" do")
		}
	}
	return b.String()
}
