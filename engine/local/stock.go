package local

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// quarters are what a container with a user namespace of its own is launched into: that namespace, and a network namespace
// that it owns, in a network or in none. They are used once: a container may leave sockets, counters and rules behind.
type quarters struct {
	first     uint32 // of its host ids; 0 when its mappings were configured
	user, net *os.File
	wires     []wire // of the network namespace
}

func (q *quarters) close() {
	q.user.Close()
	q.net.Close()
}

const (
	// stockLeast is how many are kept ready: enough for a burst typed by hand or by a loop, at some hundred kilobytes of kernel
	// memory each.
	stockLeast = 8
	// stockMost is how many of a network are kept ready while whole bursts are wanted: what the kernel's routing does for one takes many
	// times as long as the rest of a start.
	stockMost = 64
	// stockRest is how long nobody must have wanted more than the least before the rest is given up.
	stockRest = time.Minute
)

// restockPause is how long the stock waits before it is filled again, so that this happens after a start and not during it.
const restockPause = 3 * time.Millisecond

// stock keeps quarters ready, each with a range of ids of its own. Making them takes a child, three writes to procfs, for a network
// a pair of links, and the kernel's routing lock, which the teardown of others holds for tens of milliseconds; taking them takes
// a microsecond. How many it keeps follows the demand, up to its most: twice as many each time that it runs out, the least again after a
// quiet minute.
type stock struct {
	make func(patient bool) (*quarters, error)
	drop func(*quarters) // gives one up
	most int             // how many it keeps at most

	low  chan struct{} // a take left less than half
	quit chan struct{}
	idle sync.WaitGroup

	mu     sync.Mutex
	ready  []*quarters // guarded by mu
	target int         // guarded by mu; how many there shall be
	busy   time.Time   // guarded by mu; when more than the least were wanted
}

// newStock begins to stock what make makes, so many at most.
func newStock(most int, make_ func(patient bool) (*quarters, error), drop func(*quarters)) *stock {
	s := &stock{make: make_, drop: drop, most: most, low: make(chan struct{}, 1), quit: make(chan struct{}), target: stockLeast}
	s.low <- struct{}{}
	s.idle.Go(s.keep)
	return s
}

// keep fills the stock whenever it is half empty, and shrinks it when it is more than anybody wants, until it is closed.
func (s *stock) keep() {
	tick := time.NewTicker(stockRest)
	defer tick.Stop()
	for {
		select {
		case <-s.low:
			s.fill()
		case <-tick.C:
			s.shrink()
		case <-s.quit:
			return
		}
	}
}

// fill fills the stock. While the machine refuses, every take makes its own, or reports why not.
func (s *stock) fill() {
	for {
		s.mu.Lock()
		full := len(s.ready) >= s.target
		s.mu.Unlock()
		select {
		case <-s.quit:
			return
		default:
		}
		if full {
			return
		}
		q, err := s.make(true)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.ready = append(s.ready, q)
		s.mu.Unlock()
	}
}

// shrink gives up what a burst wanted that is over.
func (s *stock) shrink() {
	s.mu.Lock()
	var rest []*quarters
	if time.Since(s.busy) > stockRest && s.target > stockLeast {
		s.target = stockLeast
		n := min(len(s.ready), stockLeast)
		rest = slices.Clone(s.ready[n:])
		s.ready = slices.Delete(s.ready, n, len(s.ready))
	}
	s.mu.Unlock()
	for _, q := range rest {
		s.drop(q)
	}
}

// take returns quarters, which become the caller's with their range. Errors: ENOSPC (ranges, addresses, or the kernel's limit on
// namespaces), EPERM, ENOMEM.
func (s *stock) take() (*quarters, error) {
	s.mu.Lock()
	var q *quarters
	if n := len(s.ready); n > 0 {
		q = s.ready[0]
		s.ready = slices.Delete(s.ready, 0, 1)
	} else {
		s.target = min(2*s.target, s.most)
	}
	if s.target > stockLeast && len(s.ready) <= s.target-stockLeast {
		s.busy = time.Now()
	}
	low := len(s.ready) <= s.target/2
	s.mu.Unlock()
	if low {
		time.AfterFunc(restockPause, func() {
			select {
			case s.low <- struct{}{}:
			default:
			}
		})
	}
	if q == nil {
		return s.make(false)
	}
	return q, nil
}

// evict gives up those that somebody wants something of, and says whether there were any.
func (s *stock) evict(wanted func(*quarters) bool) bool {
	s.mu.Lock()
	var out []*quarters
	s.ready = slices.DeleteFunc(s.ready, func(q *quarters) bool {
		if wanted(q) {
			out = append(out, q)
			return true
		}
		return false
	})
	s.mu.Unlock()
	for _, q := range out {
		s.drop(q)
	}
	return len(out) > 0
}

// close gives back what is in stock. Nobody may take any more.
func (s *stock) close() {
	close(s.quit)
	s.idle.Wait()
	s.evict(func(*quarters) bool { return true })
}

// mapping is the line of a uid_map or gid_map that gives a container a range.
func mapping(first uint32) string { return fmt.Sprintf("0 %d %d\n", first, rangeSize) }

// furnished makes quarters with a range that was free, in no network.
func (e *Engine) furnished(patient bool) (*quarters, error) {
	first, err := e.ids.take()
	if err != nil {
		return nil, err
	}
	q, err := e.furnish(first, patient)
	if err != nil {
		e.ids.give(first)
		return nil, err
	}
	return q, nil
}

// unfurnish gives them up.
func (e *Engine) unfurnish(q *quarters) {
	q.close()
	e.ids.give(q.first)
}
