package names

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// idleTime is how long a connection may take for its next query, from its first byte to its last, or to take a reply. A peer that went away
// without a word, or sends a byte now and then, is gone after that.
const idleTime = 10 * time.Second

// accept takes connections, or closes them at once: the kernel's queue must not hold those of others up.
func (r *Resolver) accept(l net.Listener) {
	told := ""
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // EMFILE, or the peer's own
			if told != err.Error() {
				told = err.Error()
				r.log.Warn("a resolver cannot accept", "address", l.Addr(), "error", err)
			}
			if !r.pause(errorTime) {
				return
			}
			continue
		}
		if !r.turn() {
			c.Close()
			return
		}
		if !r.admit(c) {
			r.dropped.Add(1)
			abort(c)
		}
		<-turns
	}
}

// abort ends a connection without TIME_WAIT: somebody may open thousands.
func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Close()
}

// admit starts serving a connection if there is a slot for it.
func (r *Resolver) admit(c net.Conn) bool {
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return false
	}
	addr, now := at.Addr().Unmap().WithZone(""), time.Now().UnixNano()
	a := r.asker(addr, now)
	if !r.may(a, now) { // a connection costs as much as a query
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || !r.conns.take(&a.conns) {
		return false
	}
	r.open[c] = struct{}{}
	r.work.Go(func() {
		defer func() {
			r.mu.Lock()
			delete(r.open, c)
			r.conns.give(&a.conns)
			r.mu.Unlock()
			c.Close()
		}()
		r.converse(c, a, addr)
	})
	return true
}

// converse answers the queries of a connection, one after the other, until the peer ends its half of it, breaks the rules, or takes too long.
func (r *Resolver) converse(c net.Conn, a *asker, addr netip.Addr) {
	b, s := make([]byte, 2+queryMax), &scratch{}
	for {
		if c.SetDeadline(time.Now().Add(idleTime)) != nil {
			return
		}
		if _, err := io.ReadFull(c, b[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(b))
		if n > queryMax {
			abort(c)
			return
		}
		if _, err := io.ReadFull(c, b[2:2+n]); err != nil {
			return
		}
		// Unlike UDP, TCP can make the peer wait.
		for !r.may(a, time.Now().UnixNano()) {
			if !r.pause(errorTime / 10) {
				return
			}
		}
		reply := r.respond(s, b[2:2+n], a, addr)
		if reply == nil {
			r.dropped.Add(1)
			return // it is no query: nothing good follows
		}
		// Forwarding took its own time. One write: the length alone would be a packet of its own.
		if c.SetDeadline(time.Now().Add(idleTime)) != nil {
			return
		}
		out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply)))
		if _, err := c.Write(append(out, reply...)); err != nil {
			return
		}
		r.answered.Add(1)
	}
}

// respond is everything between a query on a connection and its reply; nil is none.
func (r *Resolver) respond(s *scratch, b []byte, a *asker, addr netip.Addr) []byte {
	if !r.turn() {
		return nil
	}
	reply, q := r.answer(s, b, addr, true)
	<-turns
	if q == nil {
		return reply
	}
	if !r.takeForward(a) {
		r.dropped.Add(1)
		return q.fail()
	}
	defer r.giveForward(a)
	return r.forward(q, addr)
}
