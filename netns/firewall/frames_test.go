package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// frame is what was seen on a link.
type frame struct {
	link string
	data []byte
}

func (f frame) source() netip.Addr {
	if len(f.data) < 54 {
		return netip.Addr{}
	}
	switch binary.BigEndian.Uint16(f.data[12:]) {
	case unix.ETH_P_IP:
		return netip.AddrFrom4([4]byte(f.data[26:30]))
	case unix.ETH_P_IPV6:
		return netip.AddrFrom16([16]byte(f.data[22:38]))
	}
	return netip.Addr{}
}

func (f frame) from(subnet string) bool { return netip.MustParsePrefix(subnet).Contains(f.source()) }

func (f frame) holds(text string) bool { return bytes.Contains(f.data, []byte(text)) }

func (f frame) String() string { return fmt.Sprintf("a frame from %v: %x", f.source(), f.data) }

// capture collects all frames of links until it is asked for them.
func (p *place) capture(links ...string) func() []frame {
	p.t.Helper()
	var fds []int
	p.do(func() {
		for _, l := range links {
			link, err := net.InterfaceByName(l)
			p.must(err)
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
			p.must(err)
			p.must(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: link.Index}))
			fds = append(fds, fd)
		}
	})
	return func() []frame {
		time.Sleep(never)
		var out []frame
		for i, fd := range fds {
			b := make([]byte, 2048)
			for {
				n, _, err := unix.Recvfrom(fd, b, 0)
				if err != nil {
					break
				}
				out = append(out, frame{links[i], bytes.Clone(b[:n])})
			}
			unix.Close(fd)
		}
		if len(out) == 0 {
			p.t.Error("the capture saw nothing at all")
		}
		return out
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// claim sends datagrams with a source address that the place takes for itself.
func (p *place) claim(address, to string) {
	p.t.Helper()
	l, err := p.h.LinkByName("eth0")
	p.must(err)
	a := &netlink.Addr{IPNet: netlink.NewIPNet(net.ParseIP(address)), Flags: unix.IFA_F_NODAD}
	p.must(p.h.AddrAdd(l, a))
	p.do(func() {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(address)}}
		c, err := d.Dial("udp", net.JoinHostPort(to, "80"))
		p.must(err)
		defer c.Close()
		for range 3 {
			c.Write([]byte("claim " + address + "."))
			time.Sleep(10 * time.Millisecond)
		}
	})
	p.must(p.h.AddrDel(l, a))
}

// ping says whether an echo comes back.
func (p *place) ping(to string, patience time.Duration) (ok bool) {
	p.t.Helper()
	p.do(func() {
		v6 := netip.MustParseAddr(to).Is6()
		network, request, reply := "ip4:icmp", byte(8), byte(0)
		if v6 {
			network, request, reply = "ip6:ipv6-icmp", 128, 129
		}
		c, err := net.Dial(network, to)
		if err != nil {
			return
		}
		defer c.Close()
		echo := []byte{request, 0, 0, 0, 0x12, 0x34, 0, 1, 'p', 'i', 'n', 'g'}
		if !v6 {
			binary.BigEndian.PutUint16(echo[2:], checksum(echo))
		}
		if _, err := c.Write(echo); err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(patience))
		b := make([]byte, 1500)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			answer := b[:n]
			if !v6 {
				answer = answer[min(n, int(answer[0]&15)*4):] // behind the IP header
			}
			if len(answer) >= 12 && answer[0] == reply && bytes.Equal(answer[4:12], echo[4:]) {
				ok = true
				return
			}
		}
	})
	return ok
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// flows lists the flows to an address and port of UDP.
func (p *place) flows(to string, port uint16) string {
	p.t.Helper()
	conn, err := dial(int(p.ns.Fd()))
	p.must(err)
	defer conn.Close()
	list, err := udpFlows(conn, unix.AF_INET, port)
	p.must(err)
	out := ""
	for _, f := range list {
		if f.asked.Port() != port {
			p.t.Errorf("a flow to %v was listed for port %d", f.asked, port)
		}
		if f.asked.Addr().String() == to {
			out += fmt.Sprintf("%x\n", f.raw[4:100]) // with its addresses and ports, without its age
		}
	}
	return out
}

// reset sends the reset of a connection that never was.
func (p *place) reset(to string) {
	p.t.Helper()
	p.do(func() {
		network := "ip4:tcp"
		if netip.MustParseAddr(to).Is6() {
			network = "ip6:tcp"
		}
		c, err := net.Dial(network, to)
		p.must(err)
		defer c.Close()
		_, err = c.Write([]byte{0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 1 << 2, 0, 0, 0, 0, 0, 0})
		p.must(err)
	})
}

// taken takes an address and says whether the kernel finds that somebody has it.
func (p *place) taken(address string) bool {
	p.t.Helper()
	l, err := p.h.LinkByName("eth0")
	p.must(err)
	a, err := netlink.ParseAddr(address)
	p.must(err)
	p.must(p.h.AddrAdd(l, a))
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		list, err := p.h.AddrList(l, unix.AF_INET6)
		p.must(err)
		for _, b := range list {
			if b.IP.Equal(a.IP) && b.Flags&unix.IFA_F_TENTATIVE == 0 {
				return false
			}
			if b.IP.Equal(a.IP) && b.Flags&unix.IFA_F_DADFAILED != 0 {
				return true
			}
		}
	}
	return false
}
