package local

import "sync"

// background is work that goes on behind somebody's back. Unlike [sync.WaitGroup] it may be given more while others wait: an exit
// can be reported at any moment, also while the engine is being closed.
type background struct {
	mu   sync.Mutex
	n    int           // how much goes on; guarded by mu
	idle chan struct{} // closed when nothing does any more; guarded by mu
}

// Go begins something.
func (b *background) Go(do func()) {
	b.mu.Lock()
	if b.n == 0 {
		b.idle = make(chan struct{})
	}
	b.n++
	b.mu.Unlock()
	go func() {
		defer b.done()
		do()
	}()
}

func (b *background) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n--; b.n == 0 {
		close(b.idle)
	}
}

// Wait returns when what goes on at that moment has ended.
func (b *background) Wait() {
	b.mu.Lock()
	idle := b.idle
	b.mu.Unlock()
	if idle != nil {
		<-idle
	}
}
