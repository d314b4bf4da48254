package local

import (
	"runtime/debug"
	"sync"
	"time"
)

// rest gives memory back once starts have ceased. Each leaves garbage of some hundred kilobytes, of plans and configurations, and
// a server that then has nothing to do would keep it until the next collection, two minutes later, and its pages for longer.
type rest struct {
	mu    sync.Mutex
	timer *time.Timer // guarded by mu
}

// restDelay is for how long there must have been no start.
const restDelay = noteDelay + noteDelay/4

// tired says that there is something to give back.
func (r *rest) tired() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil {
		r.timer = time.AfterFunc(restDelay, debug.FreeOSMemory)
		return
	}
	r.timer.Reset(restDelay)
}
