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

// udp is the datagram socket of one address. One goroutine reads it, and owns what is not the socket.
type udp struct {
	r    *Resolver
	at   netip.AddrPort
	conn *net.UDPConn
	raw  syscall.RawConn
	six  bool

	muted  []muted
	shares map[netip.Addr]int // of the last datagrams
	read   int                // how many these are

	crowded bool          // when it was last looked at
	lost    atomic.Uint64 // the kernel's count when the socket was closed
}

// muted is an asker of whom the kernel lets little through.
type muted struct {
	addr  netip.Addr
	until time.Time // when it is looked at again
	came  int       // what came through since
	quiet int       // periods in a row in which that was not too much
}

const (
	muteTime  = 250 * time.Millisecond
	mutedMax  = 32  // more than that are read and dropped; 32 of IPv6 are 400 instructions of filter
	crowd     = 128 // datagrams between two looks at the buffer
	errorTime = 100 * time.Millisecond
)

// The buffer is crowded from when one part of it is full until it is down to the other.
const full, nearlyEmpty = 8, 64

func (u *udp) serve() {
	b := make([]byte, queryMax)
	s, told := &scratch{}, ""
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
			if told != err.Error() { // such an error may last
				told = err.Error()
				u.r.log.Warn("a resolver cannot read", "address", u.at, "error", err)
			}
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
	u.share(addr, now)
	known := u.isMuted(addr)
	// While the buffer is full, what of a muted asker was in it already only keeps others waiting.
	if known && u.crowded || !r.may(a, now.UnixNano()) {
		r.dropped.Add(1)
		if !known {
			u.mute(addr, now)
		}
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
	if len(u.muted) < mutedMax {
		u.muted = append(u.muted, muted{addr: addr, until: now.Add(muteTime)})
		u.filter()
	}
}

// share mutes whoever has more than an eighth of what is read while the buffer fills. On a busy machine the reader itself can be slower than the
// rate of one asker.
func (u *udp) share(addr netip.Addr, now time.Time) {
	u.shares[addr]++
	if u.read++; u.read < crowd {
		return
	}
	m := socketMemory(u.raw)
	u.crowded = m.over(full) || u.crowded && m.over(nearlyEmpty)
	if m.over(full) {
		for a, n := range u.shares {
			if n > crowd/8 && !u.isMuted(a) {
				u.mute(a, now)
			}
		}
	}
	u.read = 0
	clear(u.shares)
}

// isMuted counts what comes through.
func (u *udp) isMuted(addr netip.Addr) bool {
	for i := range u.muted {
		if u.muted[i].addr == addr {
			u.muted[i].came++
			return true
		}
	}
	return false
}

// unmute lets those through again who have asked no more than they may for two periods, by what came through. As long as one floods, there is so
// no moment at which all of it arrives and fills the buffer, not even when its process, or this one, gets no processor for a while.
func (u *udp) unmute(now time.Time) {
	if socketMemory(u.raw).waiting() { // not all that came through has been counted
		_ = u.conn.SetReadDeadline(now.Add(muteTime / 50))
		return
	}
	allowed := u.r.config.Limits.Rate * int(muteTime/time.Millisecond) / 1000
	still := u.muted[:0:0]
	for _, m := range u.muted {
		if m.until.After(now) {
			still = append(still, m)
			continue
		}
		if m.quiet++; m.came*thinning > allowed {
			m.quiet = 0
		}
		if m.quiet < 2 {
			still = append(still, muted{addr: m.addr, until: now.Add(muteTime), quiet: m.quiet})
		}
	}
	changed := len(still) != len(u.muted)
	// The first is looked at next.
	slices.SortFunc(still, func(a, b muted) int { return a.until.Compare(b.until) })
	if u.muted = still; changed {
		u.filter()
	} else {
		u.wake()
	}
}

// filter tells the kernel who is muted. Without the filter, which may be refused for want of memory, they are read and dropped.
func (u *udp) filter() {
	addrs := make([]netip.Addr, len(u.muted))
	for i, m := range u.muted {
		addrs[i] = m.addr
	}
	if err := attach(u.raw, program(u.six, addrs)); err != nil {
		u.r.log.Debug("a socket got no filter", "address", u.at, "error", err)
	}
	u.wake()
}

// wake sets when the reader looks at the muted again.
func (u *udp) wake() {
	var first time.Time // zero: none
	if len(u.muted) > 0 {
		first = u.muted[0].until // they are in order
	}
	_ = u.conn.SetReadDeadline(first) // fails only on a closed socket
}

func (u *udp) kernelDrops() uint64 { return max(socketMemory(u.raw).drops(), u.lost.Load()) }

func (u *udp) close() {
	u.lost.Store(socketMemory(u.raw).drops())
	announce(u.at, -1)
	u.conn.Close()
}
