package engine

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"
)

// Events is a subscription: what happens from the moment it was made, each event once and in order.
type Events interface {
	// Next waits for an event. It ends early with ctx's error, and with io.EOF after the last event that there can be.
	Next(ctx context.Context) (*Event, error)
	// Try returns an event that has happened already, or nil.
	Try() *Event
	// Close ends the subscription.
	Close()
}

// Bus hands events to those who listen. Publishing never waits for a listener: each has a bounded queue, whose oldest events
// make room, and which then says how many they were. The zero Bus is ready for use.
type Bus struct {
	mu        sync.Mutex
	seq       uint64                     // under mu
	listeners map[string][]*subscription // under mu; by the container that they listen in, "" for all
}

// queueMax bounds the events that wait for one reader. One that is stopped with Ctrl-Z keeps this many and no more.
const queueMax = 1024

// subscription implements [Events]. Only those whom an event concerns are woken by it: five hundred readers of five hundred
// containers cost a start as much as one does.
type subscription struct {
	bus *Bus
	in  string        // the container that it listens in
	new chan struct{} // holds a token while something may be waiting

	mu    sync.Mutex // taken after Bus.mu
	queue []*Event   // under mu
	lost  uint64     // under mu; events dropped from the front of queue, until told
	last  *Event     // under mu; the newest of these
	ended bool       // under mu; nothing will be added
}

// Publish numbers an event and hands it to all who listen in its container or around it. The caller gives up the event.
func (b *Bus) Publish(e *Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seq++
	e.Seq = b.seq
	told := append([]string{"", e.ID}, e.Within...)
	for i, in := range told {
		if slices.Contains(told[:i], in) {
			continue // a rename is told to those around both places
		}
		for _, s := range b.listeners[in] {
			s.add(e)
		}
	}
}

// Subscribe begins to listen in the container with that identity, or with "" in all.
func (b *Bus) Subscribe(in string) Events {
	s := &subscription{bus: b, in: in, new: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners == nil {
		b.listeners = map[string][]*subscription{}
	}
	b.listeners[in] = append(b.listeners[in], s)
	return s
}

// add queues an event. Bus.mu is held.
func (s *subscription) add(e *Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == queueMax {
		s.last, s.queue = s.queue[0], s.queue[1:]
		s.lost++
	}
	s.queue = append(s.queue, e)
	s.ended = s.ended || e.Name == EventRemove && e.ID == s.in
	s.wake()
}

// wake leaves a token, of which one is enough.
func (s *subscription) wake() {
	select {
	case s.new <- struct{}{}:
	default:
	}
}

// Try implements [Events].
func (s *subscription) Try() *Event {
	e, _ := s.take()
	return e
}

// take takes the next event, or says whether there can be no more. What was lost is told where it is missing; the number of
// that line is the last lost one's, so that numbers still rise.
func (s *subscription) take() (e *Event, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 {
		e = &Event{Seq: s.last.Seq, Time: s.last.Time, Name: EventGap, Fields: []Field{{"lost", s.lost}}}
		s.lost, s.last = 0, nil
		return e, false
	}
	if len(s.queue) == 0 {
		return nil, s.ended
	}
	e, s.queue[0] = s.queue[0], nil
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.queue = nil // what a burst has grown is given back
	}
	return e, false
}

// Next implements [Events]. Several may wait at once, as the threads of one reader.
func (s *subscription) Next(ctx context.Context) (*Event, error) {
	for {
		e, ended := s.take()
		if e != nil || ended {
			s.wake() // there may be more, for another thread, as there is the end
		}
		if e != nil {
			return e, nil
		}
		if ended {
			return nil, io.EOF
		}
		select {
		case <-s.new:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close implements [Events].
func (s *subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	rest := slices.DeleteFunc(s.bus.listeners[s.in], func(o *subscription) bool { return o == s })
	if s.bus.listeners[s.in] = rest; len(rest) == 0 {
		delete(s.bus.listeners, s.in)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.wake()
}
