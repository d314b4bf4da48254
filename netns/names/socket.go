package names

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bufferSize is for the datagrams of all askers of an address. It holds what one that floods can send until it is muted, so
// that nothing of the others is lost.
const bufferSize = 4 << 20

func listenUDP(r *Resolver, at netip.AddrPort) (*udp, error) {
	c := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error { return prepare(raw, network, r.config.Link) }}
	p, err := c.ListenPacket(context.Background(), "udp", at.String())
	if err != nil {
		return nil, err
	}
	conn, _ := p.(*net.UDPConn) // "udp" makes no other
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	u := &udp{r: r, at: at, conn: conn, raw: raw, six: at.Addr().Is6(), shares: map[netip.Addr]int{}}
	u.filter()
	announce(at, 1)
	return u, nil
}

func listenTCP(at netip.AddrPort, link string) (net.Listener, error) {
	c := net.ListenConfig{
		Control:   func(network, _ string, raw syscall.RawConn) error { return prepare(raw, network, link) },
		KeepAlive: -1, // connections end long before
	}
	c.SetMultipathTCP(false) // nobody needs it on a bridge
	return c.Listen(context.Background(), "tcp", at.String())
}

// prepare sets what must be set before bind(2).
func prepare(raw syscall.RawConn, network, link string) (err error) {
	if e := raw.Control(func(fd uintptr) { err = prepareSocket(int(fd), network, link) }); e != nil {
		return e
	}
	return err
}

func prepareSocket(fd int, network, link string) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if network == "udp6" || network == "tcp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	// The address of a bridge may come later than its resolver: one of IPv6 is tentative for a second after it was added.
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return err
	}
	if link != "" {
		if err := unix.BindToDevice(fd, link); err != nil {
			return err
		}
	}
	if network == "udp4" || network == "udp6" {
		for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], bufferSize) != nil {
				// Without CAP_NET_ADMIN as much as net.core.rmem_max permits.
				_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], bufferSize)
			}
		}
	}
	return nil
}

// udpHeader is what lies before the query where a socket filter looks.
const udpHeader = 8

// thinning is how many datagrams of a muted asker are dropped for one that comes through. A power of two.
const thinning = 64

// Offsets of linux/filter.h: SKF_NET_OFF, where the IP header begins, with the source address in it, and SKF_AD_OFF + SKF_AD_RANDOM, a random number.
const (
	netOff  = 0xfff00000
	source4 = 12
	source6 = 8
	random  = 0xfffff000 + 56
)

// program makes the filter of a socket, classic BPF: it drops what is too long for a query, and most of what the muted ask.
// Each address is compared in a block of its own that ends with both verdicts, since jumps reach 255 instructions only.
func program(six bool, muted []netip.Addr) []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	)
	drop, take := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: udpHeader + queryMax, Jf: 1},
		drop,
	}
	for _, m := range muted {
		bytes, from := m.AsSlice(), uint32(netOff+source4)
		if six {
			from = netOff + source6
		}
		for i := 0; i < len(bytes); i += 4 {
			word := uint32(bytes[i])<<24 | uint32(bytes[i+1])<<16 | uint32(bytes[i+2])<<8 | uint32(bytes[i+3])
			rest := uint8((len(bytes)-i-4)/4*2 + 4) // to the end of the block: the words that follow, and the verdicts
			code = append(code, unix.SockFilter{Code: load, K: from + uint32(i)}, unix.SockFilter{Code: equal, K: word, Jf: rest})
		}
		code = append(code, unix.SockFilter{Code: load, K: random},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: thinning - 1, Jf: 1}, drop, take)
	}
	return append(code, take)
}

// attach gives a socket its filter, in place of the last one.
func attach(raw syscall.RawConn, code []unix.SockFilter) (err error) {
	e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	})
	if e != nil {
		return e
	}
	return err
}

// memory is what SO_MEMINFO tells of a socket, as linux/sock_diag.h numbers it.
type memory [9]uint32

func socketMemory(raw syscall.RawConn) (m memory) {
	size := uint32(unsafe.Sizeof(m))
	// A socket that is closed has none.
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&m)), uintptr(unsafe.Pointer(&size)), 0)
	})
	return m
}

// drops is how many datagrams the kernel dropped, by the filter or for want of room.
func (m memory) drops() uint64 { return uint64(m[8]) }

// waiting says that there is something to read.
func (m memory) waiting() bool { return m[0] > 0 }

// over says that more than a part of the buffer waits to be read.
func (m memory) over(part uint32) bool { return m[0] > m[1]/part }
