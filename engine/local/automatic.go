package local

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/seccomp"
)

// account is what a start has found for a user who is configured by name.
type account struct {
	Text string     `json:"text"` // as it was configured
	User specs.User `json:"user"`
}

// Automatic implements [engine.Container]. It opens nothing of the container's: what is looked up in its root, only a start
// knows, and the container remembers it from the last one.
func (c *container) Automatic() (engine.Automatic, error) {
	c.mu.Lock()
	name, config, first, found := c.name, c.rec.Config, c.rec.First, c.rec.Found
	c.mu.Unlock()
	a := engine.Automatic{Hostname: name, Cgroups: c.e.host.Delegable()}
	if found != nil && found.Text == config.Extension.User {
		a.User = &found.User
	}
	ok := first != 0
	if !ok {
		first, ok = c.e.ids.likely(c.id)
	}
	if ok {
		whole := []specs.LinuxIDMapping{{HostID: first, Size: rangeSize}}
		a.UIDMappings, a.GIDMappings = whole, whole
	}
	var err error
	a.Seccomp, err = seccomp.Profile(boundingSet(config))
	return a, err
}

func boundingSet(c *engine.Config) []string {
	if c.Spec.Process.Capabilities == nil {
		return nil
	}
	return c.Spec.Process.Capabilities.Bounding
}
