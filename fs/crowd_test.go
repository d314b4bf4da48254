package fs

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// TestCrowdGivesWay: beside an action a look at a crowd takes its time, each container once, and ends even if that never does.
func TestCrowdGivesWay(t *testing.T) {
	const each = 2 * time.Millisecond
	look := func(acting int32) time.Duration {
		tr := &tree{}
		tr.acting.Store(acting)
		calls := make([]atomic.Int32, max(crowd, 30*runtime.NumCPU()))
		begin := time.Now()
		tr.forEach(len(calls), func(i int) {
			calls[i].Add(1)
			time.Sleep(each)
		})
		took := time.Since(begin)
		for i := range calls {
			if n := calls[i].Load(); n != 1 {
				t.Errorf("container %d was looked at %d times", i, n)
			}
		}
		return took * time.Duration(runtime.NumCPU()) / time.Duration(len(calls))
	}
	if alone, beside := look(0), look(1); beside < wayMost*each {
		t.Errorf("a container takes %v, and %v beside an action: want more than %d times that", alone, beside, wayMost)
	}
}
