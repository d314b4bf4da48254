package cgroup

import (
	"errors"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Repair is [Group.Apply] for a group that a crash may have left between two settings: nothing is taken to be as it was left,
// and each limit is set by itself. One that the kernel refuses stays what it is; the others are what r says. Errors: those
// of Apply, joined.
func (g *Group) Repair(r *specs.LinuxResources) error {
	want, err := g.tree.host.wants(r)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	limits := g.tree.host.limits
	have := slices.Clone(g.tree.host.initial)
	for i, p := range limits {
		if err := g.look(p, &have[i]); err != nil {
			return err
		}
	}
	g.have = have
	before := slices.Clone(have)
	var errs []error
	for _, i := range inOrder(limits, before, want) {
		err := g.change(limits[i], before[i], want[i])
		if err == nil {
			g.have[i] = want[i]
			continue
		}
		errs = append(errs, err, g.look(limits[i], &g.have[i]))
	}
	return errors.Join(errs...)
}
