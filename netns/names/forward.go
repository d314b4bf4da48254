package names

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	serverTime  = 2 * time.Second // for one server
	forwardTime = 5 * time.Second // for all: glibc waits as long before it asks again
	wrongMax    = 100             // datagrams that are no answer to our question: somebody guesses
)

// forward asks the servers, one after the other, and returns the reply for the client.
func (r *Resolver) forward(q *query, asker netip.Addr) []byte {
	servers := r.servers(q, asker)
	if len(servers) == 0 {
		if r.config.Upstream != nil && q.private() {
			return q.fit(q.failure(dns.RcodeNameError))
		}
		return q.fail()
	}
	packed, err := q.upstream()
	if err != nil {
		return q.fail()
	}
	r.forwarded.Add(1)
	end := time.Now().Add(forwardTime)
	var second []byte // what is better than nothing
	for _, server := range servers {
		if !time.Now().Before(end) || r.until.Err() != nil {
			break
		}
		reply, err := r.exchange(server, packed, q, end)
		if err != nil {
			r.log.Debug("a server did not answer", "server", server, "error", err)
			continue
		}
		if !q.weak(reply) {
			return q.fit(reply)
		}
		if second = reply; binary.BigEndian.Uint16(reply[4:]) == 0 {
			second = q.failure(int(reply[3] & 0xf))
		}
	}
	if second != nil {
		return q.fit(second)
	}
	r.failed.Add(1)
	return q.fail()
}

// servers returns who may be asked: never a resolver of this process, and about a single label nobody in public.
func (r *Resolver) servers(q *query, asker netip.Addr) []netip.AddrPort {
	var servers []netip.AddrPort
	if r.config.Servers != nil {
		servers = r.config.Servers(asker)
	}
	if len(servers) == 0 {
		servers = r.config.Upstream()
	}
	private := q.private()
	return slices.DeleteFunc(slices.Clone(servers), func(s netip.AddrPort) bool {
		return !s.IsValid() || ours(s) || private && !near(s.Addr())
	})
}

// private says whether a query is about a single label, which may be the name of a container that is not there at the moment.
// About a top-level domain itself, validating resolvers ask with the types that are left out.
func (q *query) private() bool {
	switch q.msg.Question[0].Qtype {
	case dns.TypeNS, dns.TypeSOA, dns.TypeDS, dns.TypeDNSKEY:
		return false
	}
	return q.name != "" && dns.CountLabel(q.msg.Question[0].Name) == 1
}

// shared is the space behind carriers' address translation, which overlay networks use too (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// near says whether an address is not in public.
func near(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsUnspecified() || shared.Contains(a)
}

// offered is how much a server may send by UDP.
func (q *query) offered() int {
	if q.opt == nil {
		return dns.MinMsgSize
	}
	return min(max(int(q.opt.UDPSize()), dns.MinMsgSize), offeredMax)
}

// upstream is the query as servers get it: the question, the bits and the options that are not between two neighbours only.
func (q *query) upstream() ([]byte, error) {
	h := q.msg.MsgHdr
	m := dns.Msg{
		MsgHdr:   dns.MsgHdr{RecursionDesired: h.RecursionDesired, AuthenticatedData: h.AuthenticatedData, CheckingDisabled: h.CheckingDisabled},
		Question: q.msg.Question,
	}
	if q.opt != nil {
		opt := *q.opt
		opt.SetUDPSize(uint16(q.offered()))
		opt.Option = slices.DeleteFunc(slices.Clone(opt.Option), func(o dns.EDNS0) bool {
			switch o.Option() {
			case dns.EDNS0COOKIE, dns.EDNS0TCPKEEPALIVE, dns.EDNS0PADDING:
				return true
			}
			return false
		})
		m.Extra = []dns.RR{&opt}
	}
	return m.Pack()
}

// exchange asks one server: by UDP, and by TCP what does not fit and can have more room.
func (r *Resolver) exchange(server netip.AddrPort, packed []byte, q *query, end time.Time) ([]byte, error) {
	packed = slices.Clone(packed)
	binary.BigEndian.PutUint16(packed, dns.Id())
	reply, err := r.ask("udp", server, packed, q, end)
	if err != nil || !truncated(reply) || q.size <= q.offered() {
		return reply, err
	}
	binary.BigEndian.PutUint16(packed, dns.Id())
	whole, err := r.ask("tcp", server, packed, q, end)
	if err != nil {
		return reply, nil
	}
	return whole, nil
}

// ask makes one exchange. The socket is a new one, with a port that the kernel chose at random, and connected, so only the server's
// own datagrams arrive, and its ICMP errors.
func (r *Resolver) ask(network string, server netip.AddrPort, packed []byte, q *query, end time.Time) ([]byte, error) {
	until := time.Now().Add(serverTime)
	if until.After(end) {
		until = end
	}
	d := net.Dialer{Deadline: until, KeepAlive: -1}
	c, err := d.DialContext(r.until, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(r.until, func() { c.Close() })
	defer stop()
	if err := c.SetDeadline(until); err != nil {
		return nil, err
	}
	if network == "tcp" {
		return askTCP(c, packed, q)
	}
	return askUDP(c, packed, q)
}

var errWrong = errors.New("no answer to the question")

func askUDP(c net.Conn, packed []byte, q *query) ([]byte, error) {
	if _, err := c.Write(packed); err != nil {
		return nil, err
	}
	b := make([]byte, replyMax)
	for range wrongMax {
		n, err := c.Read(b)
		if err != nil {
			return nil, err
		}
		if q.answeredBy(b[:n], packed) {
			return b[:n], nil
		}
	}
	return nil, errWrong
}

func askTCP(c net.Conn, packed []byte, q *query) ([]byte, error) {
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(packed)), uint16(len(packed)))
	if _, err := c.Write(append(out, packed...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	if !q.answeredBy(b, packed) {
		return nil, errWrong
	}
	return b, nil
}

// answeredBy checks that a message answers what was asked: ID, direction, question. Only the question is parsed: the records of 64 kB can be
// many MB when each is compressed, and they are the client's business.
func (q *query) answeredBy(b, asked []byte) bool {
	if len(b) < headerSize || b[0] != asked[0] || b[1] != asked[1] || b[2]&0xf8 != 0x80 {
		return false
	}
	questions := binary.BigEndian.Uint16(b[4:])
	if questions == 0 { // some servers refuse without quoting
		return weakCode(b)
	}
	name, end, err := dns.UnpackDomainName(b, headerSize)
	if questions != 1 || err != nil || len(b) < end+4 {
		return false
	}
	question := q.msg.Question[0]
	return strings.EqualFold(name, question.Name) &&
		binary.BigEndian.Uint16(b[end:]) == question.Qtype && binary.BigEndian.Uint16(b[end+2:]) == question.Qclass
}

func truncated(b []byte) bool { return b[2]&2 != 0 }

// weakCode says whether a server could not, or would not, tell: the next one may.
func weakCode(b []byte) bool {
	switch b[3] & 0xf {
	case dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented:
		return true
	}
	return false
}

// weak says whether another server may have a better reply, which it also may if this one's did not arrive in whole.
func (q *query) weak(reply []byte) bool {
	return weakCode(reply) || truncated(reply) && q.size > q.offered()
}

// fail is the reply when nobody answered.
func (q *query) fail() []byte { return q.failure(dns.RcodeServerFailure) }

func (q *query) failure(rcode int) []byte {
	m := q.reply(rcode)
	m.RecursionAvailable = true
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// fit makes a server's reply the client's: its ID, its size. AD, AA and RA are the server's, whom the client trusts through us; a client that does
// not has its own resolver take AD away (trust-ad in resolv.conf(5)). What does not fit is cut between records, since old musl takes what is there
// instead of asking by TCP.
func (q *query) fit(reply []byte) []byte {
	binary.BigEndian.PutUint16(reply, q.msg.Id)
	if len(reply) <= q.size {
		return reply
	}
	var m dns.Msg
	if len(reply) <= replyMax && unpack(&m, reply) == nil {
		m.Truncate(q.size)
		if b, err := m.Pack(); err == nil && len(b) <= q.size {
			return b
		}
	}
	bare := q.reply(int(reply[3] & 0xf))
	bare.Truncated, bare.RecursionAvailable = true, true
	b, err := bare.Pack()
	if err != nil {
		return nil
	}
	return b
}
