package names

import (
	"encoding/binary"
	"testing"

	"github.com/miekg/dns"
)

// FuzzQuery: whatever comes in by UDP or TCP, a reply is one to it, in its size.
func FuzzQuery(f *testing.F) {
	for _, q := range []*dns.Msg{
		question("web", dns.TypeA), question("many", dns.TypeA), question("2.0.9.10.in-addr.arpa", dns.TypePTR), question("example.org", dns.TypeANY),
		question("example.org", dns.TypeTXT), question(".", dns.TypeNS), question("web", dns.TypeAXFR), question(`a\.b\000`, dns.TypeAAAA),
	} {
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		q.SetEdns0(1232, true)
		b, _ = q.Pack()
		f.Add(b)
		f.Add(b[:len(b)-3])
	}
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01")) // a name that points to itself
	r := &Resolver{config: Config{Zone: testZone(), Upstream: list()}}
	s := &scratch{}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, tcp := range []bool{false, true} {
			reply, q := r.answer(s, b, ip("127.0.0.1"), tcp)
			if q != nil {
				if _, err := q.upstream(); err != nil {
					t.Errorf("it cannot be passed on: %v", err)
				}
				if reply = q.fail(); reply == nil {
					t.Error("no reply")
				}
			}
			if reply == nil {
				continue
			}
			var m dns.Msg
			if err := m.Unpack(reply); err != nil || !m.Response || m.Id != binary.BigEndian.Uint16(b) {
				t.Errorf("%v: %x", err, reply)
			}
			if !tcp && len(reply) > replyMax || len(m.Question) > 1 {
				t.Errorf("%d bytes, %d questions", len(reply), len(m.Question))
			}
		}
	})
}

// FuzzReply: whatever a server sends, what the client gets is in its size, and an answer to its question.
func FuzzReply(f *testing.F) {
	asked := question("example.org", dns.TypeA)
	asked.Id = 7
	packed, err := asked.Pack()
	if err != nil {
		f.Fatal(err)
	}
	m := new(dns.Msg)
	m.SetReply(asked)
	for range 20 { // more takes the fuzzer long to make small
		m.Answer = append(m.Answer, a(asked, "192.0.2.1"))
	}
	b, _ := m.Pack()
	f.Add(b)
	f.Add(b[:540])
	f.Add(append([]byte{0, 7, 0x80, 5}, make([]byte, 8)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q query
		if err := q.parse(packed, false); err != nil {
			t.Fatal(err)
		}
		if !q.answeredBy(b, packed) {
			return
		}
		reply := q.fit(b)
		if len(reply) > dns.MinMsgSize || len(reply) < headerSize || binary.BigEndian.Uint16(reply) != 7 || reply[2]&0x80 == 0 {
			t.Errorf("%x", reply)
		}
	})
}
