package fs

import (
	"sync"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// sample is one container at one moment.
type sample struct {
	view  *engine.View
	stats []engine.Stat
}

// number finds a statistic.
func (s *sample) number(name string) (uint64, bool) {
	for i := range s.stats {
		if s.stats[i].Name == name {
			return s.stats[i].Value, true
		}
	}
	return 0, false
}

// samples remembers the last look at all containers for a moment, because `ls -l` asks for the sizes of two texts that are
// made from one. No file is given a look that it has had already: one reading is one sample.
type samples struct {
	mu     sync.Mutex    // held for memory operations only
	all    []sample      // under mu, never changed; nil when there is none to give
	by     string        // under mu; the file for which it was made
	writes uint64        // under mu; see [stamp]
	at     time.Time     // under mu
	took   time.Duration // under mu
}

// take returns a look at all containers, parents before their children. One that was made for another file is not older than
// it took to make, during which no two containers were seen at the same moment either, or than a memo.
func (s *samples) take(t *tree, by string) []sample {
	writes := t.writes.Load()
	s.mu.Lock()
	all := s.all
	fresh := s.by != by && s.writes == writes && time.Since(s.at) < max(memoAge, s.took)
	s.all = nil
	s.mu.Unlock()
	if fresh && all != nil {
		return all
	}
	begin := time.Now()
	all = look(t)
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all, s.by, s.writes, s.at, s.took = all, by, writes, now, now.Sub(begin)
	time.AfterFunc(max(memoAge, s.took), func() { s.forget(now) })
	return all
}

// forget gives the memory back.
func (s *samples) forget(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.Equal(at) {
		s.all = nil
	}
}

// look looks at every container once.
func look(t *tree) []sample {
	var found []engine.Container
	each(t.engine, nil, func(c engine.Container) { found = append(found, c) })
	all := make([]sample, len(found))
	t.forEach(len(found), func(i int) { all[i] = sample{found[i].View(), found[i].Stats()} })
	return all
}
