package local

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestBackground: what had begun has ended when Wait returns, whatever begins meanwhile; the race detector has its say.
func TestBackground(t *testing.T) {
	var b background
	b.Wait() // of nothing
	var ended atomic.Int32
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				var mine atomic.Bool
				b.Go(func() { mine.Store(true); ended.Add(1) })
				if b.Wait(); !mine.Load() {
					t.Error("it waited for somebody else")
				}
			}
		})
	}
	all.Wait()
	if b.Wait(); ended.Load() != 1000 {
		t.Errorf("%d of 1000 ended", ended.Load())
	}
}
