package netns

import (
	"fmt"

	"github.com/prometheus/procfs"
)

// Counters are what went through a link, as the container counts: what it receives is Rx.
type Counters struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// CountersOf returns the counters of every link in the namespace of a process, without lo. No thread has to go there for it.
//
// Error: fs.ErrNotExist, if the process is gone.
func CountersOf(pid int) (map[string]Counters, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return nil, fmt.Errorf("counters of process %d: %w", pid, err)
	}
	links, err := proc.NetDev()
	if err != nil {
		return nil, fmt.Errorf("counters of process %d: %w", pid, err)
	}
	out := make(map[string]Counters, len(links))
	for name, l := range links {
		if name == "lo" {
			continue
		}
		out[name] = Counters{
			RxBytes: l.RxBytes, RxPackets: l.RxPackets, RxErrors: l.RxErrors, RxDropped: l.RxDropped,
			TxBytes: l.TxBytes, TxPackets: l.TxPackets, TxErrors: l.TxErrors, TxDropped: l.TxDropped,
		}
	}
	return out, nil
}
