package fs

import (
	"github.com/ctrfs/ctrfs/engine"
)

// execShelf is the directory exec of a container.
var execShelf = shelving{
	one:   "an exec",
	scope: func(t *tree) *scope { return t.exec },
	all: func(_ *tree, at place) (all []place) {
		for _, x := range at.c.Execs() {
			all = append(all, at.exec(x))
		}
		return all
	},
	find: func(_ *tree, at place, name string) (place, bool) {
		x, ok := at.c.Exec(name)
		if !ok {
			return place{}, false
		}
		return at.exec(x), true
	},
	make: func(_ *tree, by engine.Caller, at place, name string, o engine.Owner) (place, error) {
		x, err := at.c.AddExec(by, name, o)
		if err != nil {
			return place{}, err
		}
		return at.exec(x), nil
	},
	remove: func(_ *tree, by engine.Caller, it place) error { return it.c.RemoveExec(by, it.x) },
}

// exec is the place of an exec in a container's.
func (p place) exec(x engine.Exec) place { return place{c: p.c, x: x, id: x.View().ID} }
