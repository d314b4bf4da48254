package names

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	// queryMax bounds a query. The longest name has 255 bytes; the rest is room for the options of EDNS.
	queryMax = 1232
	// replyMax bounds what a client may have by UDP. There is nothing but a bridge between us, which the usual 1232 are not for.
	replyMax = 4096
	// offeredMax is what servers may send us by UDP: more is in fragments on the way, which are lost and forged (the DNS flag day of 2020).
	offeredMax = 1232
)

// query is one question with what matters for its reply.
type query struct {
	msg  dns.Msg
	name string // in lower case, without the last dot
	size int    // the longest reply that the client takes this way
	opt  *dns.OPT
}

// scratch is what a goroutine that answers uses again for each query.
type scratch struct {
	q   query
	out [replyMax]byte
}

// answer returns the reply to a query about the network, or the query if others are to be asked. Neither: it gets no reply. The reply is
// overwritten by the next.
func (r *Resolver) answer(s *scratch, b []byte, asker netip.Addr, tcp bool) (reply []byte, forward *query) {
	// A reply that was answered would be answered again by another server such as this one.
	if len(b) < headerSize || b[2]&0x80 != 0 {
		return nil, nil
	}
	r.asked.Add(1)
	if rcode := checkHeader(b); rcode != dns.RcodeSuccess {
		return bareReply(b, rcode), nil
	}
	q := &s.q
	if err := q.parse(b, tcp); err != nil {
		return bareReply(b, dns.RcodeFormatError), nil
	}
	records, rcode, ours := r.own(q, asker)
	if !ours {
		copied := *q
		return nil, &copied
	}
	m := q.reply(rcode)
	m.Answer = records
	m.Authoritative = rcode == dns.RcodeSuccess || rcode == dns.RcodeNameError
	m.RecursionAvailable = r.config.Upstream != nil
	m.Truncate(q.size)
	if reply, err := m.PackBuffer(s.out[:]); err == nil {
		return reply, nil
	}
	return bareReply(b, dns.RcodeServerFailure), nil
}

// checkHeader refuses what is no plain query before anything is parsed, and with it every long list of records.
func checkHeader(b []byte) int {
	opcode := b[2] >> 3 & 0xf
	questions, answers := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	authorities, extra := binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b[10:])
	switch {
	case opcode != dns.OpcodeQuery:
		return dns.RcodeNotImplemented
	case questions != 1 || answers != 0 || authorities > 1 || extra > 2: // an IXFR has a SOA, and is refused by its type
		return dns.RcodeFormatError
	}
	return dns.RcodeSuccess
}

// bareReply is a reply to what was not, or cannot be, parsed: a header.
func bareReply(b []byte, rcode int) []byte {
	reply := make([]byte, headerSize)
	copy(reply, b[:2])
	reply[2] = 0x80 | b[2]&0x79 // a response; the opcode and RD as they were
	reply[3] = byte(rcode)
	return reply
}

var errMalformed = errors.New("a malformed message")

// unpack parses what containers and servers send. A bug of the library costs a reply, not the server that holds the mount.
func unpack(m *dns.Msg, b []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = errMalformed
		}
	}()
	return m.Unpack(b)
}

func (q *query) parse(b []byte, tcp bool) error {
	*q = query{}
	if err := unpack(&q.msg, b); err != nil {
		return err
	}
	if len(q.msg.Question) != 1 {
		return errMalformed
	}
	for _, extra := range q.msg.Extra {
		opt, ok := extra.(*dns.OPT)
		if !ok {
			continue // a signature: no secret is shared with anyone
		}
		if q.opt != nil {
			return errMalformed // RFC 6891 6.1.1
		}
		q.opt = opt
	}
	q.name = strings.TrimSuffix(strings.ToLower(q.msg.Question[0].Name), ".")
	switch {
	case tcp:
		q.size = dns.MaxMsgSize
	case q.opt != nil:
		q.size = min(max(int(q.opt.UDPSize()), dns.MinMsgSize), replyMax)
	default:
		q.size = dns.MinMsgSize
	}
	return nil
}

// reply begins a reply. It has no SOA, so a name that is not there now is not remembered as such (RFC 2308): the container may start the next moment.
func (q *query) reply(rcode int) *dns.Msg {
	h := q.msg.MsgHdr
	m := &dns.Msg{
		MsgHdr:   dns.MsgHdr{Id: h.Id, Response: true, RecursionDesired: h.RecursionDesired, CheckingDisabled: h.CheckingDisabled, Rcode: rcode},
		Question: q.msg.Question,
	}
	if q.opt != nil {
		m.SetEdns0(replyMax, q.opt.Do())
	}
	return m
}

// own decides about a query: what the network answers itself is ours.
func (r *Resolver) own(q *query, asker netip.Addr) (records []dns.RR, rcode int, ours bool) {
	question := q.msg.Question[0]
	if rcode := refusal(q); rcode != dns.RcodeSuccess {
		return nil, rcode, true
	}
	if addr, ok := reverseName(q.name); ok {
		if names, ok := r.config.Zone.Reverse(asker, addr); ok {
			if len(names) == 0 {
				return nil, dns.RcodeNameError, true
			}
			return pointers(question, names), dns.RcodeSuccess, true
		}
	} else if q.name == "localhost" || strings.HasSuffix(q.name, ".localhost") {
		return addresses(question, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}), dns.RcodeSuccess, true
	} else if q.name != "" {
		if addrs, ok := r.config.Zone.Lookup(asker, q.name); ok {
			return addresses(question, addrs), dns.RcodeSuccess, true
		}
	}
	if r.config.Upstream == nil {
		return nil, dns.RcodeNameError, true
	}
	return nil, 0, false
}

// refusal is for what is neither answered nor passed on.
func refusal(q *query) int {
	question := q.msg.Question[0]
	switch t := question.Qtype; {
	case q.opt != nil && q.opt.Version() != 0:
		return dns.RcodeBadVers
	case question.Qclass != dns.ClassINET:
		return dns.RcodeRefused // CHAOS asks what runs here
	case t == dns.TypeANY:
		return dns.RcodeNotImplemented // RFC 8482: used for nothing but amplification
	case t == dns.TypeNone, t == dns.TypeOPT, t >= 128 && t < dns.TypeANY: // transfers, and what is no type of a record (RFC 6895)
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

func addresses(q dns.Question, addrs []netip.Addr) (records []dns.RR) {
	h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: TTL}
	for _, a := range addrs {
		a = a.Unmap()
		switch {
		case q.Qtype == dns.TypeA && a.Is4():
			records = append(records, &dns.A{Hdr: h, A: net.IP(a.AsSlice())})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			records = append(records, &dns.AAAA{Hdr: h, AAAA: net.IP(a.AsSlice())})
		}
	}
	return records
}

func pointers(q dns.Question, names []string) (records []dns.RR) {
	if q.Qtype != dns.TypePTR {
		return nil
	}
	h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: TTL}
	for _, n := range names {
		if _, ok := dns.IsDomainName(n); ok {
			records = append(records, &dns.PTR{Hdr: h, Ptr: dns.Fqdn(n)})
		}
	}
	return records
}

const (
	reverse4 = ".in-addr.arpa"
	reverse6 = ".ip6.arpa"
)

// reverseName returns the address that a name below in-addr.arpa or ip6.arpa stands for; those of whole networks stand for none.
func reverseName(name string) (addr netip.Addr, ok bool) {
	var text string
	if labels, is4 := strings.CutSuffix(name, reverse4); is4 {
		l := strings.Split(labels, ".")
		if len(l) != 4 {
			return addr, false
		}
		text = l[3] + "." + l[2] + "." + l[1] + "." + l[0]
	} else if labels, is6 := strings.CutSuffix(name, reverse6); is6 {
		if len(labels) != 2*32-1 {
			return addr, false
		}
		var b strings.Builder
		for i := len(labels) - 1; i >= 0; i -= 2 {
			if i > 0 && labels[i-1] != '.' {
				return addr, false
			}
			b.WriteByte(labels[i])
			if i%8 == 0 && i > 0 {
				b.WriteByte(':')
			}
		}
		text = b.String()
	} else {
		return addr, false
	}
	addr, err := netip.ParseAddr(text)
	return addr, err == nil && addr.Zone() == ""
}
