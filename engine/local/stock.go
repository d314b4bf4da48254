package local

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// quarters are what a container with a user namespace of its own is launched into: that namespace, and a network namespace
// that it owns. They are used once: a container may leave sockets, counters and rules behind.
type quarters struct {
	first     uint32 // of its host ids; 0 when its mappings were configured
	user, net *os.File
}

func (q *quarters) close() {
	q.user.Close()
	q.net.Close()
}

// stockSize is how many are kept ready: enough for a burst typed by hand or by a loop, at some hundred kilobytes of kernel
// memory each.
const stockSize = 8

// restockPause is how long the stock waits before it is filled again, so that this happens after a start and not during it.
const restockPause = 3 * time.Millisecond

// stock keeps quarters ready, each with a range of ids of its own. Making them takes a child, three writes to procfs and half
// a millisecond of the kernel's routing lock, which the teardown of others holds for tens of milliseconds; taking them takes
// a microsecond.
type stock struct {
	make func(first uint32, patient bool) (*quarters, error)
	ids  *ranges

	ready chan *quarters
	low   chan struct{} // a take left less than half
	quit  chan struct{}
	idle  sync.WaitGroup
}

// newStock begins to stock what make makes.
func newStock(ids *ranges, make_ func(first uint32, patient bool) (*quarters, error)) *stock {
	s := &stock{make: make_, ids: ids, ready: make(chan *quarters, stockSize), low: make(chan struct{}, 1), quit: make(chan struct{})}
	s.low <- struct{}{}
	s.idle.Go(s.fill)
	return s
}

// fill fills the stock whenever it is half empty, until it is closed. While the machine refuses, every take makes its own, or
// reports why not.
func (s *stock) fill() {
	for {
		select {
		case <-s.low:
		case <-s.quit:
			return
		}
		for len(s.ready) < cap(s.ready) {
			q, err := s.one(true)
			if err != nil {
				break
			}
			s.ready <- q // nobody else puts any in
		}
	}
}

// one makes quarters with a range that was free.
func (s *stock) one(patient bool) (*quarters, error) {
	first, err := s.ids.take()
	if err != nil {
		return nil, err
	}
	q, err := s.make(first, patient)
	if err != nil {
		s.ids.give(first)
		return nil, err
	}
	return q, nil
}

// take returns quarters, which become the caller's with their range. Errors: ENOSPC (ranges, or the kernel's limit on
// namespaces), EPERM, ENOMEM.
func (s *stock) take() (*quarters, error) {
	if len(s.ready) <= cap(s.ready)/2 {
		time.AfterFunc(restockPause, func() {
			select {
			case s.low <- struct{}{}:
			default:
			}
		})
	}
	select {
	case q := <-s.ready:
		return q, nil
	default:
		return s.one(false)
	}
}

// close gives back what is in stock. Nobody may take any more.
func (s *stock) close() {
	close(s.quit)
	s.idle.Wait()
	close(s.ready)
	for q := range s.ready {
		q.close()
		s.ids.give(q.first)
	}
}

// mapping is the line of a uid_map or gid_map that gives a container a range.
func mapping(first uint32) string { return fmt.Sprintf("0 %d %d\n", first, rangeSize) }
