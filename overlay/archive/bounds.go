//go:build !race

package archive

import (
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// dataMax bounds what the program has in memory, whatever an archive makes it do: a window of zstd, and a tree of directories.
const dataMax = 512 << 20

// bounds keeps the program small. It needs some 30 MB.
func bounds() error {
	runtime.GOMAXPROCS(min(runtime.NumCPU(), 4))
	debug.SetMemoryLimit(48 << 20)
	debug.SetGCPercent(50)
	return unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: dataMax, Max: dataMax})
}
