package names

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestForward: any type, with its bits, by UDP and TCP.
func TestForward(t *testing.T) {
	var seen sync.Map // of the queries
	u := serveUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		text := render(q)
		if o := q.IsEdns0(); o != nil {
			for _, option := range o.Option {
				text += fmt.Sprintf(" option %d", option.Option())
			}
		}
		seen.Store(q.Question[0].Name, text)
		echo(w, q)
	})
	r, server := start(t, Config{Upstream: list(u)})
	for i, c := range []struct {
		t           uint16
		change      func(q *dns.Msg)
		sent, reply string
	}{
		{dns.TypeA, func(*dns.Msg) {}, "NOERROR rd", "NOERROR rd ra | %s 60 IN A 203.0.113.7"},
		{dns.TypeTXT, func(*dns.Msg) {}, "NOERROR rd", "NOERROR rd ra"},
		{65280, func(*dns.Msg) {}, "NOERROR rd", "NOERROR rd ra"},
		{dns.TypeA, func(q *dns.Msg) { q.AuthenticatedData = true }, "NOERROR rd ad", "NOERROR rd ra ad | %s 60 IN A 203.0.113.7"},
		{dns.TypeTXT, func(q *dns.Msg) { q.RecursionDesired = false }, "NOERROR", "NOERROR ra"},
		{dns.TypeTXT, func(q *dns.Msg) { q.CheckingDisabled = true }, "NOERROR rd cd", "NOERROR rd ra cd"},
		{dns.TypeTXT, func(q *dns.Msg) { q.SetEdns0(65000, true) }, "NOERROR rd | edns 1232 do", "NOERROR rd ra | edns 1232 do"},
		{dns.TypeTXT, func(q *dns.Msg) { q.SetEdns0(700, false) }, "NOERROR rd | edns 700", "NOERROR rd ra | edns 1232"},
		{dns.TypeTXT, func(q *dns.Msg) {
			q.SetEdns0(700, false)
			o := q.IsEdns0()
			o.Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}, &dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
		}, "NOERROR rd | edns 700 option 3", "NOERROR rd ra | edns 1232"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			name := fmt.Sprintf("%s%d.example.org.", network, i)
			q := question(name, c.t)
			c.change(q)
			reply := render(exchange(t, network, "", server, q))
			sent, _ := seen.Load(name)
			if want := strings.Replace(c.reply, "%s", name, 1); reply != want || sent != c.sent {
				t.Errorf("%s %d:\n got %s\nwant %s\nsent %s\nwant %s", network, i, reply, want, sent, c.sent)
			}
		}
	}
	eventually(t, "not all counted", func() bool { return r.Stats().Answered == 18 }) // an answer counts once it has been sent
	if s := r.Stats(); s.Asked != 18 || s.Answered != 18 || s.Forwarded != 18 || s.Failed != 0 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
	if u.tcp.Load() != 0 {
		t.Errorf("%d queries went by TCP though nothing was truncated", u.tcp.Load())
	}
}

// TestIDs: servers see neither the client's ID nor one port.
func TestIDs(t *testing.T) {
	var mu sync.Mutex
	ids, ports := map[uint16]bool{}, map[string]bool{}
	u := serveUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		mu.Lock()
		ids[q.Id], ports[w.RemoteAddr().String()] = true, true
		mu.Unlock()
		echo(w, q)
	})
	_, server := start(t, Config{Upstream: list(u)})
	for range 30 {
		q := question("example.org", dns.TypeA)
		q.Id = 7
		exchange(t, "udp", "", server, q)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < 28 || len(ports) < 28 {
		t.Errorf("of 30 queries: %d IDs, %d ports", len(ids), len(ports))
	}
}

// TestSingleLabel: what may be a stopped container's name is told to private servers only.
func TestSingleLabel(t *testing.T) {
	_, server := start(t, Config{Upstream: list(serveUpstream(t, echo))})
	if got := render(exchange(t, "udp", "", server, question("printer", dns.TypeA))); got != "NOERROR rd ra | printer. 60 IN A 203.0.113.7" {
		t.Error(got)
	}
	// 192.0.2.1 is public and answers nobody: it must not even be waited for.
	_, server = start(t, Config{Upstream: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")} }})
	began := time.Now()
	for _, name := range []string{"printer", "web2"} {
		if got := render(exchange(t, "udp", "", server, question(name, dns.TypeAAAA))); got != "NXDOMAIN rd ra" {
			t.Error(got)
		}
	}
	if time.Since(began) > time.Second {
		t.Errorf("it took %v", time.Since(began))
	}
	for addr, want := range map[string]bool{"8.8.8.8": false, "2001:4860:4860::8888": false, "192.168.1.1": true, "127.0.0.53": true, "100.100.100.100": true,
		"fe80::1": true, "fd00::1": true, "::ffff:9.9.9.9": false, "::ffff:10.0.0.1": true} {
		if near(ip(addr)) != want {
			t.Errorf("%s: %v", addr, !want)
		}
	}
	for _, c := range []struct {
		name string
		t    uint16
		want bool
	}{{"org", dns.TypeA, true}, {"org", dns.TypeDS, false}, {"org", dns.TypeNS, false}, {".", dns.TypeNS, false}, {".", dns.TypeA, false}, {"a.org", dns.TypeA, false}, {`a\.b`, dns.TypeA, true}} {
		var q query
		b, err := question(c.name, c.t).Pack()
		if err == nil {
			err = q.parse(b, false)
		}
		if err != nil || q.private() != c.want {
			t.Errorf("%s %s: private %v (%v)", c.name, dns.TypeToString[c.t], !c.want, err)
		}
	}
}

// TestAskersServers: an asker's own servers stand in for the host's; an internal network has neither.
func TestAskersServers(t *testing.T) {
	host, own := serveUpstream(t, echo), serveUpstream(t, echo)
	servers := func(asker netip.Addr) []netip.AddrPort {
		if asker == ip("127.0.0.3") {
			return list(own)()
		}
		return nil
	}
	_, server := start(t, Config{Upstream: list(host), Servers: servers})
	exchange(t, "udp", "127.0.0.3", server, question("example.org", dns.TypeA))
	exchange(t, "tcp", "127.0.0.3", server, question("example.org", dns.TypeA))
	exchange(t, "udp", "127.0.0.2", server, question("example.org", dns.TypeA))
	if host.udp.Load() != 1 || own.udp.Load() != 2 {
		t.Errorf("host %d, own %d", host.udp.Load(), own.udp.Load())
	}
	_, server = start(t, Config{Servers: servers})
	if got := render(exchange(t, "udp", "127.0.0.3", server, question("example.org", dns.TypeA))); got != "NXDOMAIN aa rd" {
		t.Error(got)
	}
	if own.udp.Load() != 2 {
		t.Error("a query left an internal network")
	}
}

// TestBadServers: those that are silent, refuse, fail, or are not there, and then one that answers, or none.
func TestBadServers(t *testing.T) {
	t.Parallel()
	code := func(rcode int, withQuestion bool) *upstream {
		return serveUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg)
			m.SetRcode(q, rcode)
			if !withQuestion {
				m.Question = nil
			}
			w.WriteMsg(m)
		})
	}
	good, silent, dead := serveUpstream(t, echo), serveUpstream(t, func(dns.ResponseWriter, *dns.Msg) {}), &upstream{at: netip.MustParseAddrPort("127.8.0.9:9")}
	refuses, fails, missing := code(dns.RcodeRefused, false), code(dns.RcodeServerFailure, true), code(dns.RcodeNameError, true)
	const answer = "NOERROR rd ra | example.org. 60 IN A 203.0.113.7"
	for _, c := range []struct {
		what     string
		servers  []*upstream
		want     string
		from, to time.Duration
	}{
		{"no server", nil, "SERVFAIL rd ra", 0, time.Second},
		{"nobody listens", []*upstream{dead}, "SERVFAIL rd ra", 0, time.Second},
		{"nobody listens, then one", []*upstream{dead, good}, answer, 0, time.Second},
		{"refuses, fails, then one", []*upstream{refuses, fails, good}, answer, 0, time.Second},
		{"fails, refuses", []*upstream{fails, refuses}, "REFUSED rd ra", 0, time.Second},
		{"NXDOMAIN is an answer", []*upstream{missing, good}, "NXDOMAIN rd", 0, time.Second},
		{"silent, then one", []*upstream{silent, good}, answer, serverTime, serverTime + time.Second},
		{"all silent", []*upstream{silent, silent, silent, silent}, "SERVFAIL rd ra", forwardTime, forwardTime + time.Second},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			_, server := start(t, Config{Upstream: list(c.servers...)})
			began := time.Now()
			got := render(exchange(t, "udp", "", server, question("example.org", dns.TypeA)))
			if took := time.Since(began); got != c.want || took < c.from || took > c.to {
				t.Errorf("%v:\n got %s\nwant %s", took, got, c.want)
			}
		})
	}
}

// TestLies: what is no answer to the question is passed over, until the answer comes.
func TestLies(t *testing.T) {
	lie := func(change func(m *dns.Msg)) func(w dns.ResponseWriter, q *dns.Msg) {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg)
			m.SetReply(q)
			m.Answer = []dns.RR{a(q, "192.0.2.66")}
			change(m)
			w.WriteMsg(m)
			echo(w, q)
		}
	}
	for what, change := range map[string]func(m *dns.Msg){
		"ID":          func(m *dns.Msg) { m.Id++ },
		"no reply":    func(m *dns.Msg) { m.Response = false },
		"name":        func(m *dns.Msg) { m.Question[0].Name = "example.com." },
		"type":        func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT },
		"class":       func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"opcode":      func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus },
		"no question": func(m *dns.Msg) { m.Question = nil },
		"two":         func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
	} {
		_, server := start(t, Config{Upstream: list(serveUpstream(t, lie(change)))})
		if got := render(exchange(t, "udp", "", server, question("example.org", dns.TypeA))); got != "NOERROR rd ra | example.org. 60 IN A 203.0.113.7" {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// TestOtherSender: a datagram with the right ID and question from another address does not arrive.
func TestOtherSender(t *testing.T) {
	other, err := net.ListenPacket("udp", "127.8.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	u := serveUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Answer = []dns.RR{a(q, "192.0.2.66")}
		b, _ := m.Pack()
		other.WriteTo(b, w.RemoteAddr())
		time.Sleep(50 * time.Millisecond)
		echo(w, q)
	})
	_, server := start(t, Config{Upstream: list(u)})
	if got := render(exchange(t, "udp", "", server, question("example.org", dns.TypeA))); !strings.Contains(got, "203.0.113.7") {
		t.Error(got)
	}
}

// TestGuesses: a server that sends nothing but wrong answers is left after some.
func TestGuesses(t *testing.T) {
	u := serveUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		for range 2 * wrongMax {
			m := new(dns.Msg)
			m.SetReply(q)
			m.Id++
			w.WriteMsg(m)
		}
	})
	_, server := start(t, Config{Upstream: list(u, serveUpstream(t, echo))})
	began := time.Now()
	if got := render(exchange(t, "udp", "", server, question("example.org", dns.TypeA))); !strings.Contains(got, "203.0.113.7") || time.Since(began) > serverTime {
		t.Error(got, time.Since(began))
	}
}

// long answers with as many addresses as the name says, truncated by UDP to what the query permits.
func long(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	var n int
	fmt.Sscanf(q.Question[0].Name, "a%d.", &n)
	for i := range n {
		m.Answer = append(m.Answer, a(q, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()))
	}
	size := dns.MinMsgSize
	if o := q.IsEdns0(); o != nil {
		size = int(o.UDPSize())
		m.SetEdns0(1232, false)
	}
	if overTCP(w) {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	m.Compress = true
	w.WriteMsg(m)
}

// TestTruncated: what does not fit into UDP is fetched by TCP where the client can take it, and cut where it cannot.
func TestTruncated(t *testing.T) {
	u := serveUpstream(t, long)
	_, server := start(t, Config{Upstream: list(u)})
	for _, c := range []struct {
		network  string
		n        int
		edns     int
		whole    bool
		upstream int64 // by TCP
	}{
		{"udp", 5, 0, true, 0}, {"udp", 100, 0, false, 0}, {"udp", 100, 512, false, 0}, {"udp", 60, 1232, true, 0}, {"udp", 100, 1232, false, 0},
		{"udp", 200, 4096, true, 1}, {"udp", 400, 4096, false, 1}, {"udp", 400, 65535, false, 1}, {"tcp", 5, 0, true, 0}, {"tcp", 3000, 0, true, 1}, {"tcp", 3000, 4096, true, 1},
	} {
		u.tcp.Store(0)
		q := question(fmt.Sprintf("a%d.example.org", c.n), dns.TypeA)
		if c.edns > 0 {
			q.SetEdns0(uint16(c.edns), false)
		}
		reply := exchange(t, c.network, "", server, q)
		if reply.Truncated == c.whole || (len(reply.Answer) == c.n) != c.whole || u.tcp.Load() != c.upstream || (c.edns > 0) != (reply.IsEdns0() != nil) {
			t.Errorf("%+v: %d answers, tc %v, %d by TCP", c, len(reply.Answer), reply.Truncated, u.tcp.Load())
		}
		if reply.Compress = true; c.network == "udp" && reply.Len() > min(max(c.edns, 512), replyMax) {
			t.Errorf("%+v: %d bytes", c, reply.Len())
		}
	}
}

// TestTooMuch: a server that ignores how much it may send.
func TestTooMuch(t *testing.T) {
	u := serveUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for range 60 {
			m.Answer = append(m.Answer, a(q, "10.1.0.1"))
		}
		m.Compress = true
		w.WriteMsg(m)
	})
	_, server := start(t, Config{Upstream: list(u)})
	reply := exchange(t, "udp", "", server, question("example.org", dns.TypeA))
	if reply.Compress = true; !reply.Truncated || reply.Len() > 512 || len(reply.Answer) < 10 {
		t.Errorf("%d bytes, %d answers, tc %v", reply.Len(), len(reply.Answer), reply.Truncated)
	}
}

// TestBrokenTCP: a server says that there is more, and then breaks by TCP. Half an answer is better than none, after others were asked.
func TestBrokenTCP(t *testing.T) {
	u := serveUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if overTCP(w) {
			w.Write([]byte("no message at all"))
			return
		}
		long(w, q)
	})
	_, server := start(t, Config{Upstream: list(u)})
	if reply := exchange(t, "tcp", "", server, question("a100.example.org", dns.TypeA)); !reply.Truncated || len(reply.Answer) == 0 {
		t.Error(render(reply))
	}
	_, server = start(t, Config{Upstream: list(u, serveUpstream(t, long))})
	if reply := exchange(t, "tcp", "", server, question("a100.example.org", dns.TypeA)); reply.Truncated || len(reply.Answer) != 100 {
		t.Error(render(reply))
	}
}

// TestNoLoop: two networks whose gateways are in the host's resolv.conf do not ask each other, nor themselves.
func TestNoLoop(t *testing.T) {
	var servers atomic.Pointer[[]netip.AddrPort]
	servers.Store(new([]netip.AddrPort))
	up := func() []netip.AddrPort { return *servers.Load() }
	a, at := start(t, Config{Upstream: up})
	b, bt := start(t, Config{Upstream: up, Addresses: []netip.Addr{ip("127.9.0.2")}})
	servers.Store(&[]netip.AddrPort{netip.MustParseAddrPort(at), netip.MustParseAddrPort("[::ffff:127.9.0.1]:" + at[len("127.9.0.1:"):]), netip.MustParseAddrPort(bt)})
	if got := render(exchange(t, "udp", "", at, question("example.org", dns.TypeA))); got != "SERVFAIL rd ra" {
		t.Error(got)
	}
	if a, b := a.Stats(), b.Stats(); a.Asked != 1 || b.Asked != 0 || a.Forwarded != 0 {
		t.Errorf("%+v %+v", a, b)
	}
	b.Close()
	if ours(netip.MustParseAddrPort(bt)) {
		t.Error("a resolver that is closed is still one of ours")
	}
}

// TestRawReply: bytes that the library has no words for reach the client as they were.
func TestRawReply(t *testing.T) {
	const tail = "\xc0\x0c\xff\x01\x00\x01\x00\x00\x00\x3c\x00\x03abc"
	u := serveUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		b, _ := m.Pack()
		binary.BigEndian.PutUint16(b[6:], 1)
		w.Write(append(b, tail...))
	})
	_, server := start(t, Config{Upstream: list(u)})
	c, err := net.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, _ := question("example.org", 0xff01).Pack()
	c.Write(append([]byte{0, byte(len(b))}, b...))
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, reply); err != nil || !strings.HasSuffix(string(reply), tail) {
		t.Errorf("%q (%v)", reply, err)
	}
}
