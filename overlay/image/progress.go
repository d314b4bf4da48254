package image

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Progress is how far a pull or an import has got. Its methods may be called at any moment, also on nil, which counts nothing.
type Progress struct {
	mu    sync.Mutex
	now   Reading   // guarded by mu
	mark  time.Time // guarded by mu: when the rate was last taken
	bytes int64     // guarded by mu: Bytes at mark
}

// Reading is one moment of a [Progress].
type Reading struct {
	What       string // "asking the registry", "downloading", "unpacking", "reading the archive", "done"
	Bytes      int64  // that have come, without what was there already
	Total      int64  // that there will be; 0 while that is not known
	Layers     int    // of the image
	LayersDone int    // unpacked, or there already
	Rate       int64  // bytes a second, lately
}

// String gives the lines of the file "progress".
func (r Reading) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "step %s\nbytes %d\ntotal %d\nlayers %d\nlayers_done %d\nrate %d\n",
		r.What, r.Bytes, r.Total, r.Layers, r.LayersDone, r.Rate)
	return b.String()
}

// Read returns the present moment.
func (p *Progress) Read() Reading {
	if p == nil {
		return Reading{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate(time.Now())
	return p.now
}

// Unpacking reports whether everything has come and what remains is work of this machine.
func (r Reading) Unpacking() bool { return r.What == stepUnpack }

const (
	stepAsk    = "asking the registry"
	stepLoad   = "downloading"
	stepRead   = "reading the archive"
	stepUnpack = "unpacking"
	stepDone   = "done"
)

// change lets do change the counters.
func (p *Progress) change(do func(r *Reading)) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	do(&p.now)
}

func (p *Progress) step(what string) { p.change(func(r *Reading) { r.What = what }) }

// add counts bytes that have come, and takes note when they were the last ones.
func (p *Progress) add(n int) {
	if p == nil || n == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Bytes += int64(n)
	if p.now.Bytes == p.now.Total && p.now.What == stepLoad {
		p.now.What = stepUnpack
	}
	p.rate(time.Now())
}

// rate takes the rate anew once a second. The caller holds mu.
func (p *Progress) rate(now time.Time) {
	if p.mark.IsZero() {
		p.mark, p.bytes = now, 0
		return
	}
	past := now.Sub(p.mark)
	if past < time.Second {
		return
	}
	p.now.Rate = int64(float64(p.now.Bytes-p.bytes) / past.Seconds())
	p.mark, p.bytes = now, p.now.Bytes
}
