package fs

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
)

// A look at so many containers is work for all processors but one, which starts that go on meanwhile find, and of less weight
// than what else the server does: a tenth, sched(7).
const (
	crowd     = 32
	crowdNice = 10
)

// forEach calls do for 0 to n-1, each once, and returns when all calls have. Of a crowd several are under way at once.
func forEach(n int, do func(i int)) {
	if n < crowd {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range max(1, runtime.NumCPU()-1) {
		all.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread and its priority end with this goroutine
			syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), crowdNice)
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	all.Wait()
}
