package launch

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// regions are memory that programs run in. It is shared memory, also with a child that gets a copy of everything else: that is
// how the parent learns what became of it. The few that are kept are in memory already, which mapping the program's own
// descriptor costs a tenth of a millisecond for, every time.
var regions struct {
	mu   sync.Mutex
	free [][]byte // guarded by mu; of regionSize each
}

const (
	regionSize = 64 << 10 // nearly every program is half as long
	regionsMax = 4        // launches at once that find one ready
)

// region returns memory for a program of that many bytes.
func region(size int) ([]byte, error) {
	if size <= regionSize {
		regions.mu.Lock()
		defer regions.mu.Unlock()
		if last := len(regions.free) - 1; last >= 0 {
			mem := regions.free[last]
			regions.free = regions.free[:last]
			return mem, nil
		}
		size = regionSize
	}
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	return mem, os.NewSyscallError("mmap", err)
}

// giveRegion takes memory back that nothing runs in.
func giveRegion(mem []byte) error {
	if len(mem) == regionSize {
		regions.mu.Lock()
		defer regions.mu.Unlock()
		if len(regions.free) < regionsMax {
			regions.free = append(regions.free, mem)
			return nil
		}
	}
	return os.NewSyscallError("munmap", unix.Munmap(mem))
}
