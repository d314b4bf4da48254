package firewall

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What the two libraries do not have, or not together with a filter, of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	ctaTupleOrig, ctaTupleReply, ctaFilter      = 1, 2, 25
	ctaTupleIP, ctaTupleProto                   = 1, 2
	ctaIPv4Src, ctaIPv4Dst                      = 1, 2
	ctaIPv6Src, ctaIPv6Dst                      = 3, 4
	ctaProtoNum, ctaProtoSrcPort, ctaProtoDPort = 1, 2, 3
	ctaFilterOrigFlags                          = 1

	// Which parts of a tuple a filter looks at.
	byProtoNum, byDstPort = 1 << 3, 1 << 5
)

// udpFlow is a flow as a client sees it and as it is answered: where it asked, and who answers.
type udpFlow struct {
	asked, answers netip.AddrPort
	raw            []byte // all that the kernel said, which is how it finds the flow again
}

// udpFlows lists the flows of UDP that ask at a port, or all if that is 0. The kernel chooses them since 5.8; before, it lists every
// flow, and the caller chooses.
func udpFlows(conn *netlink.Conn, family uint8, port uint16) ([]udpFlow, error) {
	by := uint32(byProtoNum)
	if port != 0 {
		by |= byDstPort
	}
	ask := netlink.NewAttributeEncoder()
	ask.ByteOrder = binary.BigEndian
	ask.Nested(ctaTupleOrig, func(tuple *netlink.AttributeEncoder) error {
		tuple.Nested(ctaTupleProto, func(proto *netlink.AttributeEncoder) error {
			proto.Uint8(ctaProtoNum, unix.IPPROTO_UDP)
			proto.Uint16(ctaProtoDPort, port)
			return nil
		})
		return nil
	})
	ask.Nested(ctaFilter, func(filter *netlink.AttributeEncoder) error {
		filter.ByteOrder = binary.NativeEndian
		filter.Uint32(ctaFilterOrigFlags, by)
		return nil
	})
	attributes, err := ask.Encode()
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	list, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: ctGet, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, 0, 0, 0}, attributes...),
	})
	if err != nil {
		return nil, err
	}
	var out []udpFlow
	for _, m := range list {
		if f, ok := parseFlow(m.Data); ok {
			out = append(out, f)
		}
	}
	return out, nil
}

// delete has the kernel forget a flow; one that ended meanwhile is no error.
func (f udpFlow) delete(conn *netlink.Conn) error {
	_, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: ctDelete, Flags: netlink.Request | netlink.Acknowledge},
		Data:   f.raw,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// parseFlow reads a flow of UDP, and nothing else.
func parseFlow(data []byte) (f udpFlow, ok bool) {
	if len(data) < 4 {
		return f, false
	}
	attributes, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return f, false
	}
	f.raw = data
	var there, back tuple
	for attributes.Next() {
		switch attributes.Type() {
		case ctaTupleOrig:
			attributes.Nested(there.parse)
		case ctaTupleReply:
			attributes.Nested(back.parse)
		}
	}
	f.asked, f.answers = there.to, back.from
	return f, attributes.Err() == nil && there.protocol == unix.IPPROTO_UDP && f.asked.IsValid() && f.answers.IsValid()
}

// tuple is one direction of a flow.
type tuple struct {
	protocol uint8
	from, to netip.AddrPort
}

func (t *tuple) parse(d *netlink.AttributeDecoder) error {
	d.ByteOrder = binary.BigEndian
	var src, dst netip.Addr
	var sport, dport uint16
	for d.Next() {
		switch d.Type() {
		case ctaTupleIP:
			d.Nested(func(ip *netlink.AttributeDecoder) error {
				for ip.Next() {
					switch ip.Type() {
					case ctaIPv4Src, ctaIPv6Src:
						src, _ = netip.AddrFromSlice(ip.Bytes())
					case ctaIPv4Dst, ctaIPv6Dst:
						dst, _ = netip.AddrFromSlice(ip.Bytes())
					}
				}
				return nil
			})
		case ctaTupleProto:
			d.Nested(func(proto *netlink.AttributeDecoder) error {
				for proto.Next() {
					switch proto.Type() {
					case ctaProtoNum:
						t.protocol = proto.Uint8()
					case ctaProtoSrcPort:
						sport = proto.Uint16()
					case ctaProtoDPort:
						dport = proto.Uint16()
					}
				}
				return nil
			})
		}
	}
	t.from, t.to = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return nil
}
