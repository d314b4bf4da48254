package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// drain takes what has happened, as one word each.
func drain(s Events) string {
	var words []string
	for e := s.Try(); e != nil; e = s.Try() {
		words = append(words, fmt.Sprint(e.Container, ".", e.Name, e.Seq))
	}
	return strings.Join(words, " ")
}

// TestBusScopes: who listens in a container hears of it and of what lies in it, and each event once.
func TestBusScopes(t *testing.T) {
	var b Bus
	all, pod, web, other := b.Subscribe(""), b.Subscribe("p"), b.Subscribe("w"), b.Subscribe("o")
	b.Publish(&Event{Container: "pod/web", ID: "w", Within: []string{"p"}, Name: EventStart})
	b.Publish(&Event{Container: "pod", ID: "p", Name: EventStop})
	b.Publish(&Event{Container: "other/web", ID: "w", Within: []string{"o", "p", "p"}, Name: EventRename})
	late := b.Subscribe("")
	for _, c := range []struct {
		who  string
		s    Events
		want string
	}{
		{"all", all, "pod/web.start1 pod.stop2 other/web.rename3"}, {"pod", pod, "pod/web.start1 pod.stop2 other/web.rename3"},
		{"web", web, "pod/web.start1 other/web.rename3"}, {"other", other, "other/web.rename3"}, {"late", late, ""},
	} {
		if have := drain(c.s); have != c.want {
			t.Errorf("%s heard %q, want %q", c.who, have, c.want)
		}
		c.s.Close()
	}
	if len(b.listeners) != 0 {
		t.Errorf("closed subscriptions stay: %v", b.listeners)
	}
}

// TestBusGap: a reader that does not read holds up nobody, and is told how many it has missed, where they are missing.
func TestBusGap(t *testing.T) {
	var b Bus
	s := b.Subscribe("")
	defer s.Close()
	for range queueMax + 3 {
		b.Publish(&Event{Name: EventStart})
	}
	gap := s.Try()
	if gap.Name != EventGap || gap.Seq != 3 || gap.Fields[0] != (Field{"lost", uint64(3)}) {
		t.Errorf("gap %+v", gap)
	}
	for want := uint64(4); want <= queueMax+3; want++ {
		if e := s.Try(); e == nil || e.Seq != want {
			t.Fatalf("event %+v, want number %d", e, want)
		}
	}
	if e := s.Try(); e != nil {
		t.Errorf("one more: %+v", e)
	}
}

// TestBusNext: Next waits, ends with its context, after the removal of what it listens in, and when it is closed.
func TestBusNext(t *testing.T) {
	var b Bus
	s := b.Subscribe("c")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if e, err := s.Next(ctx); e != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next of nothing: %v, %v", e, err)
	}
	go b.Publish(&Event{ID: "c", Name: EventRemove})
	if e, err := s.Next(context.Background()); err != nil || e.Name != EventRemove {
		t.Errorf("Next: %v, %v", e, err)
	}
	for range 2 {
		if _, err := s.Next(context.Background()); err != io.EOF {
			t.Errorf("after the removal: %v", err)
		}
	}
	open := b.Subscribe("")
	go open.Close()
	if _, err := open.Next(context.Background()); err != io.EOF {
		t.Errorf("after Close: %v", err)
	}
}

// TestBusConcurrent: many publishers, many readers, each number once and in order.
func TestBusConcurrent(t *testing.T) {
	var b Bus
	const publishers, each = 4, 200
	var readers, writers sync.WaitGroup
	for range 4 {
		s := b.Subscribe("")
		readers.Go(func() {
			for want := uint64(1); want <= publishers*each; want++ {
				if e, err := s.Next(context.Background()); err != nil || e.Seq != want {
					t.Errorf("%+v, %v; want number %d", e, err, want)
					return
				}
			}
			s.Close()
		})
	}
	for range publishers {
		writers.Go(func() {
			for range each {
				b.Publish(&Event{Name: EventStart})
			}
		})
	}
	writers.Wait()
	readers.Wait()
}

// FuzzEventJSON: whatever a container is called, its event is one line that any JSON parser reads.
func FuzzEventJSON(f *testing.F) {
	f.Add("pod/web", "start", "signal", "KILL")
	f.Add("a\nb\"\\", "\x00\xff", "\u2028", "<&>")
	f.Fuzz(func(t *testing.T, container, name, key, value string) {
		e := &Event{Seq: 7, Time: time.Unix(1, 5), Container: container, Name: name, Fields: []Field{{key, value}, {"n", 3}}}
		var have map[string]any
		line := e.JSON()
		if err := json.Unmarshal([]byte(line), &have); err != nil || strings.ContainsAny(line, "\n\r") {
			t.Fatalf("%q: %v", line, err)
		}
		if utf8.ValidString(container) && key != "container" && have["container"] != container {
			t.Errorf("container %q became %q", container, have["container"])
		}
	})
}
