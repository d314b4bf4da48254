package local

import (
	"runtime/debug"
	"sync"
	"time"
)

// Percentages for the garbage collector (runtime/debug, SetGCPercent). Memory is counted per container, so that a server at rest
// has half of Go's default; but in a burst of starts, collections would be every few containers, and a twentieth of its work.
const (
	GCAtRest = 50
	gcAtWork = 150
)

// rest gives memory back once starts have ceased. Each leaves garbage of some hundred kilobytes, of plans and configurations, and
// a server that then has nothing to do would keep it until the next collection, two minutes later, and its pages for longer.
type rest struct {
	mu     sync.Mutex
	atWork bool        // guarded by mu
	timer  *time.Timer // guarded by mu
}

// restDelay is for how long there must have been no start.
const restDelay = noteDelay + noteDelay/4

// tired says that there is something to give back.
func (r *rest) tired() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil {
		r.timer = time.AfterFunc(restDelay, r.now)
	} else {
		r.timer.Reset(restDelay)
	}
	if !r.atWork {
		r.atWork = true
		debug.SetGCPercent(gcAtWork)
	}
}

func (r *rest) now() {
	r.mu.Lock()
	r.atWork = false
	debug.SetGCPercent(GCAtRest)
	r.mu.Unlock()
	debug.FreeOSMemory()
}
