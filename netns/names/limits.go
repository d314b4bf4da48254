package names

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Limits bounds what askers can use. The values of one asker are far above what an honest one needs, and far below what hurts.
type Limits struct {
	Rate         int // queries a second of one asker
	Burst        int // queries at once of one asker
	Forwards     int // forwards in flight: each is a goroutine, a socket, and 5 to 70 kB
	ForwardsEach int // of one asker
	Conns        int // TCP connections
	ConnsEach    int // of one asker
	Askers       int // askers that have an allotment of their own; others share one
}

func (l Limits) orDefault() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{
		{&l.Rate, 10000}, {&l.Burst, 500},
		{&l.Forwards, 256}, {&l.ForwardsEach, 32},
		{&l.Conns, 128}, {&l.ConnsEach, 16},
		{&l.Askers, 4096},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// asker is what one container, or all strangers, use at the moment.
type asker struct {
	due    atomic.Int64 // when, in nanoseconds, everything that was asked would have been asked at the permitted rate
	seen   int64        // guarded by Resolver.mu
	flying int          // guarded by Resolver.mu
	conns  int          // guarded by Resolver.mu
}

// slots are shared by askers. One gets another slot only while it has fewer than are free: ten that take what they can get leave an
// eleventh of all for the next one, and one alone leaves half.
type slots struct{ free, each int }

func (s *slots) take(mine *int) bool {
	if *mine >= min(s.each, s.free) {
		return false
	}
	*mine++
	s.free--
	return true
}

func (s *slots) give(mine *int) {
	*mine--
	s.free++
}

// forget is how long an asker is known after its last query, if there are too many.
const forget = time.Minute

// asker finds the allotment of an address.
func (r *Resolver) asker(addr netip.Addr, now int64) *asker {
	r.mu.Lock()
	a := r.askers[addr]
	if a != nil {
		a.seen = now
	}
	r.mu.Unlock()
	if a != nil {
		return a
	}
	// Only members are remembered. A container with CAP_NET_ADMIN in its namespace may ask from any address of the network.
	if names, ok := r.config.Zone.Reverse(addr, addr); !ok || len(names) == 0 {
		return &r.strangers
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.askers[addr]; a != nil {
		return a
	}
	if len(r.askers) >= r.config.Limits.Askers {
		for addr, a := range r.askers {
			if now-a.seen > int64(forget) && a.flying == 0 && a.conns == 0 {
				delete(r.askers, addr)
			}
		}
		if len(r.askers) >= r.config.Limits.Askers {
			return &r.strangers
		}
	}
	a = &asker{seen: now}
	r.askers[addr] = a
	return a
}

// may says whether one more query is within the rate, and counts it.
func (r *Resolver) may(a *asker, now int64) bool {
	step := int64(time.Second) / int64(r.config.Limits.Rate)
	ahead := step * int64(r.config.Limits.Burst)
	for {
		due := a.due.Load()
		next := max(due, now) + step
		if next-now > ahead {
			return false
		}
		if a.due.CompareAndSwap(due, next) {
			return true
		}
	}
}

// takeForward takes a slot; false says that the query is dropped.
func (r *Resolver) takeForward(a *asker) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.closed && r.flying.take(&a.flying)
}

func (r *Resolver) giveForward(a *asker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flying.give(&a.flying)
}
