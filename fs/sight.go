package fs

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ctrfs/ctrfs/engine"
)

// sight is what somebody who is not root can see of containers: those whose directories the modes of the tree let him list, so that the
// files of the root tell him nothing that ls would not. A nil sight sees everything.
type sight struct {
	tree   *tree
	uid    uint32
	groups []uint32

	mu     sync.Mutex
	looked bool            // under mu
	writes uint64          // under mu; modes, names and owners change through the mount
	ids    map[string]bool // under mu; by identity
	paths  map[string]bool // under mu; by path
}

// sightOf is the sight of who sent a request. Its process waits for the answer, so its groups are its own while they are read.
func (t *tree) sightOf(by engine.Caller) *sight {
	if by.UID == 0 {
		return nil
	}
	s := &sight{tree: t, uid: by.UID, groups: []uint32{by.GID}}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", by.PID))
	if by.PID == 0 || err != nil {
		return s
	}
	for line := range strings.Lines(string(text)) {
		words, ok := strings.CutPrefix(line, "Groups:")
		for word := range strings.FieldsSeq(words) {
			if n, err := strconv.ParseUint(word, 10, 32); ok && err == nil {
				s.groups = append(s.groups, uint32(n))
			}
		}
	}
	return s
}

// enter is what it takes to read a directory and to look into it.
const enter = 0o5

func (s *sight) lists(o engine.Owner) bool {
	switch {
	case o.UID == s.uid:
		return o.Mode>>6&enter == enter
	case slices.Contains(s.groups, o.GID):
		return o.Mode>>3&enter == enter
	}
	return o.Mode&enter == enter
}

// look walks the tree as ls -R would. What was there before is kept for a moment: of a container that is gone, its end may be told.
// s.mu is held.
func (s *sight) look() {
	now := s.tree.writes.Load()
	if s.looked && s.writes == now {
		return
	}
	before := s.ids
	s.looked, s.writes = true, now
	s.ids, s.paths = map[string]bool{}, map[string]bool{}
	var walk func(engine.Container)
	walk = func(parent engine.Container) {
		for _, c := range s.tree.engine.Children(parent) {
			o, _ := c.Owner("")
			v := c.View()
			if s.ids[v.ID] = s.lists(o); s.ids[v.ID] {
				s.paths[v.Path] = true
				walk(c)
			}
		}
	}
	if s.lists(s.tree.engine.RootOwner()) {
		walk(nil)
	}
	for id, seen := range before {
		if _, there := s.ids[id]; !there && seen && len(before) <= 2*len(s.ids)+crowd {
			s.ids[id] = true
		}
	}
}

// seesID and seesPath report whether a container can be seen.
func (s *sight) seesID(id string) bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	return s.ids[id]
}

func (s *sight) seesPath(path string) bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	return s.paths[path]
}

// samples are those that can be seen.
func (s *sight) samples(all []sample) []sample {
	if s == nil {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(x sample) bool { return !s.seesID(x.view.ID) })
}

// events are those of containers that can be seen, each at the time when it is read.
func (s *sight) events(all engine.Events) engine.Events {
	if s == nil {
		return all
	}
	s.mu.Lock()
	s.look() // whose end may come
	s.mu.Unlock()
	return &glimpses{all, s}
}

// glimpses are events without those that somebody must not see.
type glimpses struct {
	engine.Events
	by *sight
}

func (g *glimpses) Next(ctx context.Context) (*engine.Event, error) {
	for {
		e, err := g.Events.Next(ctx)
		if err != nil || e == nil || g.by.seesID(e.ID) {
			return e, err
		}
	}
}

func (g *glimpses) Try() *engine.Event {
	for {
		e := g.Events.Try()
		if e == nil || g.by.seesID(e.ID) {
			return e
		}
	}
}
