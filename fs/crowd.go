package fs

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A look at so many containers is work for all processors, of less weight than what else the server does: a tenth, sched(7).
const (
	crowd     = 32
	crowdNice = 10
)

// A look at a crowd gives way to actions, of which a start has many steps in several processes: it looks that often whether any
// is under way, and waits for at most so many times as long as it has worked. It ends, however many start something.
const (
	wayPause = 500 * time.Microsecond
	wayMost  = 2
)

// forEach calls do for 0 to n-1, each once, and returns when all calls have. Of a crowd several are under way at once, between
// the actions.
func (t *tree) forEach(n int, do func(i int)) {
	if n < crowd {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range runtime.NumCPU() {
		all.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread and its priority end with this goroutine
			syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), crowdNice)
			var worked, waited time.Duration
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				begin := time.Now()
				for t.acting.Load() > 0 && waited+time.Since(begin) < wayMost*worked {
					time.Sleep(wayPause)
				}
				on := time.Now()
				do(int(i))
				waited, worked = waited+on.Sub(begin), worked+time.Since(on)
			}
		})
	}
	all.Wait()
}
