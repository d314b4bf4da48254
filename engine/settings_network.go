package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// network changes the network resources: a copy of them, since a clone shares what it was made from.
func (c *Config) network(change func(*specs.LinuxNetwork)) {
	r := c.Spec.Linux.Resources
	n := specs.LinuxNetwork{}
	if r.Network != nil {
		n = *r.Network
	}
	change(&n)
	r.Network = &n
	if n.ClassID == nil && len(n.Priorities) == 0 {
		r.Network = nil
	}
}

// NetClassID returns the class that tc(8) and netfilter know the container's packets by; 0 is none.
func (c *Config) NetClassID() uint32 {
	if n := c.Spec.Linux.Resources.Network; n != nil && n.ClassID != nil {
		return *n.ClassID
	}
	return 0
}

// SetNetClassID sets it.
func (c *Config) SetNetClassID(id int64) error {
	if id < 0 || id > 1<<32-1 {
		return Invalid("net_cls.classid", fmt.Sprint(id), "out of range", "write major * 65536 + minor of the class, such as 0x100001 for 10:1")
	}
	c.network(func(n *specs.LinuxNetwork) {
		n.ClassID = nil
		if id != 0 {
			n.ClassID = new(uint32(id))
		}
	})
	return nil
}

// NetPriorities returns the priorities that the container's packets get on network interfaces of the host: IFNAME PRIORITY, sorted.
func (c *Config) NetPriorities() (lines []string) {
	if n := c.Spec.Linux.Resources.Network; n != nil {
		for _, p := range n.Priorities {
			lines = append(lines, fmt.Sprintf("%s %d", p.Name, p.Priority))
		}
	}
	slices.Sort(lines)
	return lines
}

// interfaceNameMax is IFNAMSIZ without the NUL.
const interfaceNameMax = 15

// SetNetPriority sets the priority on one interface; 0, and no value, is the default of all.
func (c *Config) SetNetPriority(name, value string) error {
	if name == "" || len(name) > interfaceNameMax || strings.ContainsAny(name, "/ \t\n") {
		return Invalid("net_prio.ifpriomap", name, "not the name of a network interface", "write IFNAME PRIORITY, such as eth0 5")
	}
	priority, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
	if value != "" && err != nil {
		return Invalid("net_prio.ifpriomap", name+" "+value, "the priority is not a number", "write IFNAME PRIORITY, such as eth0 5")
	}
	c.network(func(n *specs.LinuxNetwork) {
		n.Priorities = slices.DeleteFunc(slices.Clone(n.Priorities), func(p specs.LinuxInterfacePriority) bool { return p.Name == name })
		if priority != 0 {
			n.Priorities = append(n.Priorities, specs.LinuxInterfacePriority{Name: name, Priority: uint32(priority)})
		}
	})
	return nil
}

// checkPriorities is for a configuration that comes as a whole.
func checkPriorities(c *Config) error {
	if c.Spec.Linux.Resources.Network == nil {
		return nil
	}
	clone, seen := c.Clone(), map[string]bool{}
	for _, p := range c.Spec.Linux.Resources.Network.Priorities {
		if seen[p.Name] {
			return ociBad(p.Name, "an interface is there twice", "leave one out")
		}
		seen[p.Name] = true
		if err := clone.SetNetPriority(p.Name, fmt.Sprint(p.Priority)); err != nil {
			return err
		}
	}
	return nil
}
