package cgroup

import (
	"slices"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The devices controller has two backends. Where a v2 hierarchy is mounted, be it without controllers, a program attached to the
// group decides (devices_v2.go); else v1's controller does. The order is not the controllers' usual one: on a hybrid host the program
// was measured at a quarter of the ten writes and the directory that v1 takes for each start, a change of it is one step, also
// in a group with others in it, and hybrid hosts behave like v2.
//
// Lists are compared and handed around in one form, that of [engine.Config.DeviceList].

// devicesFile is the row's name; neither v1 nor v2 has a file that is called so.
const devicesFile = "devices"

// v1's files of that row.
const (
	devicesList = iota
	devicesDeny
	devicesAllow
)

// defaultDevices is what a container gets that asks for nothing. A host without a controller cannot hold programs to it, and starts
// them nevertheless: they have no other nodes, and no mount where one opens.
var defaultDevices = engine.NewConfig().DeviceList()

// deviceLimit is what a configuration wants; one that says nothing wants no limit.
func deviceLimit(c *engine.Config) string {
	if c.Spec.Linux.Resources.Devices == nil {
		return engine.AllDevices
	}
	return c.DeviceList()
}

func devicesFromV1(texts []string) (string, error) {
	return engine.FormatDeviceList(engine.ParseDeviceList(texts[devicesList])) + "\n", nil
}

// devicesToV1 gives the writes that lead from one list to another. A device that is in both stays allowed all the time. Everything
// can be taken back or given only while no group is nested in this one (security/device_cgroup.c, devcgroup_update_access).
func devicesToV1(old, value string) ([]change, error) {
	if value == engine.AllDevices {
		return []change{{devicesAllow, "a"}}, nil
	}
	var out []change
	have, want := engine.ParseDeviceList(old), engine.ParseDeviceList(value)
	if old == engine.AllDevices {
		out, have = append(out, change{devicesDeny, "a"}), nil
	}
	for _, r := range without(have, want) {
		out = append(out, change{devicesDeny, r.String()})
	}
	for _, r := range without(want, have) {
		out = append(out, change{devicesAllow, r.String()})
	}
	return out, nil
}

// without takes from each rule the letters that the others have for the same devices, and leaves out what has none left.
func without(rules, others []engine.DeviceRule) (left []engine.DeviceRule) {
	for _, r := range rules {
		for _, o := range others {
			if r.Kind == o.Kind && r.Major == o.Major && r.Minor == o.Minor {
				r.Access = strings.Map(func(letter rune) rune {
					if strings.ContainsRune(o.Access, letter) {
						return -1
					}
					return letter
				}, r.Access)
			}
		}
		if r.Access != "" {
			left = append(left, r)
		}
	}
	return left
}

// settleDevices finds a v2 hierarchy for the row, and says why there is none.
func (p *place) settleDevices(found []*hierarchy) (why string) {
	for _, y := range found {
		switch {
		case !y.unified:
			continue
		case y.readonly:
			why = y.mount + " is mounted read-only"
			continue
		}
		if why = filterLack(); why == "" {
			p.v2, p.in = true, []*hierarchy{y}
			return ""
		}
	}
	return why
}

// filtered reports whether a program stands for the file.
func (p *place) filtered() bool { return p.v2 && p.file == devicesFile }

// unknownDevices is a list that nobody wants, so that the next one is applied: programs are not read back.
const unknownDevices = "unknown"

// changeFilter is [Group.change] for a program.
func (g *Group) changeFilter(p *place, old, value string) error {
	var err error
	if value == engine.AllDevices {
		err = g.tree.filters.detach(g.top(p.in[0]), g.path)
	} else {
		err = g.tree.filters.attach(g.top(p.in[0]), g.path, value, old == engine.AllDevices)
	}
	if err != nil {
		return g.refuse("write", p.file, value, err)
	}
	return nil
}

// filterText is [Group.text] for a program: what was applied last.
func (g *Group) filterText(p *place) (string, error) {
	if top := g.top(p.in[0]); !top.exists(g.path) {
		return "", g.refuse("read", p.file, "", top.fail("open", g.path, "", unix.ENOENT))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.tree.host.limits, p); g.have != nil && g.have[i] != unknownDevices {
		return g.have[i] + "\n", nil
	}
	return "\n", nil
}

// RenewDevices gives the group the devices of r once more, as far as the groups above it allow, after a group above has got other ones:
// cgroup v1 has taken from this group what that one lost, and gives nothing back. Programs need none of that.
func (g *Group) RenewDevices(r *specs.LinuxResources, above ...*specs.LinuxResources) error {
	p, err := g.tree.host.lookup("write", devicesFile)
	if err != nil || p.filtered() {
		return nil // what the host lacks, the group has never had
	}
	want := engine.ParseDeviceList(deviceLimit(configOf(r)))
	for _, a := range above {
		allowed := engine.ParseDeviceList(deviceLimit(configOf(a)))
		want = slices.DeleteFunc(want, func(w engine.DeviceRule) bool { return !engine.CoveredBy(allowed, w) })
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	have := ""
	if err := g.look(p, &have); err != nil {
		return err
	}
	list := engine.FormatDeviceList(want)
	if err := g.change(p, have, list); err != nil {
		return err
	}
	if g.have != nil {
		g.have[slices.Index(g.tree.host.limits, p)] = list
	}
	return nil
}
