package overlay

import (
	"slices"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// BenchmarkPrepare measures each mode hot, in a loop, and cold, after 20 ms of idleness as at a shell: medians and 99th
// percentiles in microseconds, of Prepare and of the Close that follows it; with the host's ids, and with those of a user
// namespace.
func BenchmarkPrepare(b *testing.B) {
	for _, ids := range []*IDs{nil, guestIDs(b)} {
		user := map[bool]string{true: "host", false: "user"}[ids == nil]
		for _, idle := range []time.Duration{0, 20 * time.Millisecond} {
			name := user + "/" + map[bool]string{true: "hot", false: "cold"}[idle == 0]
			for _, mode := range []engine.RootMode{"overlay", "volatile", "ro", "rw"} {
				b.Run(name+"/"+string(mode), func(b *testing.B) { benchPrepare(b, Directory(testRoot(b, tempDir(b))), mode, idle, false, ids) })
			}
			b.Run(name+"/host", func(b *testing.B) { benchPrepare(b, Directory(engine.RootHost), engine.RootOverlay, idle, false, ids) })
			b.Run(name+"/host-first", func(b *testing.B) { benchPrepare(b, Directory(engine.RootHost), engine.RootOverlay, idle, true, ids) })
			b.Run(name+"/forty-layers", func(b *testing.B) { benchPrepare(b, Source{}, engine.RootOverlay, idle, false, ids) })
		}
	}
}

// benchPrepare removes the layer each time when first is set, so that every Prepare makes one.
func benchPrepare(b *testing.B, from Source, mode engine.RootMode, idle time.Duration, first bool, ids *IDs) {
	s := newStore(b)
	if from.Path == "" {
		from = image(b, s, 40)
	}
	home(b, s, "c")
	var made, closed, removed []time.Duration
	for b.Loop() {
		time.Sleep(idle)
		begin := time.Now()
		r, err := s.Prepare("c", from, mode, ids)
		if err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		r.Close()
		end := time.Now()
		made, closed = append(made, middle.Sub(begin)), append(closed, end.Sub(middle))
		if first {
			if err := s.Remove("c"); err != nil {
				b.Fatal(err)
			}
			removed = append(removed, time.Since(end))
		}
	}
	for unit, times := range map[string][]time.Duration{"made": made, "close": closed, "remove": removed} {
		if len(times) > 0 {
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1e3, unit+"-p50-µs")
			b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1e3, unit+"-p99-µs")
		}
	}
}
