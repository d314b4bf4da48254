package cgroup

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkLifecycle measures a container's way through the package, and reports the median of each step in microseconds.
func BenchmarkLifecycle(b *testing.B) {
	for name, h := range hosts(b) {
		b.Run(name, func(b *testing.B) {
			tree := newTree(b, h)
			limits := resources(64<<20, 100, 20000, 100000, 512)
			if len(h.Controllers()) == 0 {
				limits = nil
			}
			steps := map[string][]time.Duration{}
			timed := func(step string, f func() error) {
				start := time.Now()
				if err := f(); err != nil {
					b.Fatal(err)
				}
				steps[step] = append(steps[step], time.Since(start))
			}
			for b.Loop() {
				var g *Group
				var err error
				// The kernel's own part, for comparison.
				timed("mkdirs", func() error {
					for _, top := range tree.tops {
						if err := top.mkdir("raw"); err != nil {
							return err
						}
					}
					return nil
				})
				timed("rmdirs", func() error {
					for _, top := range tree.tops {
						if err := top.rmdir("raw"); err != nil {
							return err
						}
					}
					return nil
				})
				timed("create", func() error { g, err = tree.Create("a", nil); return err })
				timed("limits", func() error { return g.Apply(limits) })
				timed("join", func() error {
					j, err := g.Join()
					if err == nil {
						j.Close()
					}
					return err
				})
				timed("procs", func() error { _, err := g.Procs(); return err })
				timed("remove", g.Remove)
			}
			for step, took := range steps {
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, step+"-µs")
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	h := hosts(b)["host"]
	tree := newTree(b, h)
	g := create(b, tree, "a", nil)
	for _, p := range h.places {
		if p.lack != "" || p.blind {
			continue
		}
		b.Run(p.file, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Read(p.file); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
