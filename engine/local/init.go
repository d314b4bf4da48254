package local

import (
	"os"
	"sync"

	"github.com/ctrfs/ctrfs/engine/reaper"
)

// reapers has the program that is at PID 1 of containers with init. All have the same.
type reapers struct {
	mu   sync.Mutex
	file *os.File // guarded by mu; nil until the first one starts
}

// program returns it. It stays the engine's.
func (r *reapers) program() (*os.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		return r.file, nil
	}
	f, err := reaper.File()
	r.file = f
	return f, err
}
