package names

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// udp is the datagram socket of one address. One goroutine reads it, and owns muted.
type udp struct {
	r    *Resolver
	at   netip.AddrPort
	conn *net.UDPConn
	raw  syscall.RawConn
	six  bool

	muted []muted
	lost  atomic.Uint64 // the kernel's count when the socket was closed
}

// muted is an asker that the kernel does not let through for a moment.
type muted struct {
	addr  netip.Addr
	until time.Time
}

const (
	muteTime  = 50 * time.Millisecond // in which an asker at 10000 a second regains its burst
	mutedMax  = 32                    // more than that are read and dropped; 32 of IPv6 are 300 instructions of filter
	errorTime = 100 * time.Millisecond
)

func (u *udp) serve() {
	b := make([]byte, queryMax)
	s := &scratch{}
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(b)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			u.unmute(time.Now())
			continue
		case errors.Is(err, net.ErrClosed):
			return
		default:
			u.r.log.Warn("a resolver cannot read", "address", u.at, "error", err)
			if !u.r.pause(errorTime) {
				return
			}
			continue
		}
		if !u.r.turn() {
			return
		}
		u.query(s, b[:n], from)
		<-turns
	}
}

// query takes one datagram.
func (u *udp) query(s *scratch, b []byte, from netip.AddrPort) {
	r, now := u.r, time.Now()
	addr := from.Addr().Unmap().WithZone("")
	a := r.asker(addr, now.UnixNano())
	if !r.may(a, now.UnixNano()) {
		r.dropped.Add(1)
		u.mute(addr, now)
		return
	}
	reply, q := r.answer(s, b, addr, false)
	if q == nil {
		u.send(reply, from)
		return
	}
	if !r.takeForward(a) {
		r.dropped.Add(1)
		return
	}
	r.work.Go(func() {
		defer r.giveForward(a)
		u.send(r.forward(q, addr), from)
	})
}

// send never waits: replies to a neighbour that does not answer ARP stay in the socket's buffer for seconds.
func (u *udp) send(reply []byte, to netip.AddrPort) {
	if reply == nil {
		u.r.dropped.Add(1)
		return
	}
	var sa unix.Sockaddr
	if u.six {
		// No scope: a link-local asker is on the link that the socket is bound to.
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	} else {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()}
	}
	var err error
	e := u.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), reply, unix.MSG_DONTWAIT, sa)
		return true
	})
	if e != nil || err != nil {
		u.r.dropped.Add(1)
		return
	}
	u.r.answered.Add(1)
}

func (u *udp) mute(addr netip.Addr, now time.Time) {
	if len(u.muted) >= mutedMax || slices.ContainsFunc(u.muted, func(m muted) bool { return m.addr == addr }) {
		return // what was in the buffer already
	}
	u.muted = append(u.muted, muted{addr, now.Add(muteTime)})
	u.filter()
}

func (u *udp) unmute(now time.Time) {
	u.muted = slices.DeleteFunc(u.muted, func(m muted) bool { return !m.until.After(now) })
	u.filter()
}

// filter tells the kernel who is muted, and the reader when the first of them is no more. Without the filter, which may be refused for want
// of memory, they are read and dropped.
func (u *udp) filter() {
	addrs := make([]netip.Addr, len(u.muted))
	for i, m := range u.muted {
		addrs[i] = m.addr
	}
	if err := attach(u.raw, program(u.six, addrs)); err != nil {
		u.r.log.Debug("a socket got no filter", "address", u.at, "error", err)
	}
	var first time.Time // zero: none
	if len(u.muted) > 0 {
		first = u.muted[0].until // they are in order
	}
	_ = u.conn.SetReadDeadline(first) // fails only on a closed socket
}

func (u *udp) kernelDrops() uint64 { return max(socketDrops(u.raw), u.lost.Load()) }

func (u *udp) close() {
	u.lost.Store(socketDrops(u.raw))
	announce(u.at, -1)
	u.conn.Close()
}
