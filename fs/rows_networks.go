package fs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
)

// networkShelf is the directory of networks.
var networkShelf = shelving{
	one:   "a network",
	scope: func(t *tree) *scope { return t.network },
	all: func(t *tree, _ place) (all []place) {
		for _, n := range t.engine.Networks() {
			all = append(all, networkPlace(n))
		}
		return all
	},
	find: func(t *tree, _ place, name string) (place, bool) {
		n, ok := t.engine.Network(name)
		if !ok {
			return place{}, false
		}
		return networkPlace(n), true
	},
	make: func(t *tree, by engine.Caller, _ place, name string, o engine.Owner) (place, error) {
		n, err := t.engine.CreateNetwork(by, name, o)
		if err != nil {
			return place{}, err
		}
		return networkPlace(n), nil
	},
	remove: func(t *tree, by engine.Caller, it place) error { return t.engine.RemoveNetwork(by, it.network) },
}

func networkPlace(n engine.Network) place { return place{network: n, id: n.View().Serial} }

// networksRows are the files of a network.
var networksRows = []row{
	{name: "subnet", shape: list, def: "one of IPv4 and one of IPv6 that this machine has no route to",
		read: ofNetwork(func(v *engine.NetworkView) string { return lines(v.Config.Subnets) }),
		tune: func(c *engine.NetworkConfig, text string) error { return c.SetSubnets(strings.Fields(text)) },
		help: "ADDRESS/LENGTH a line, one of IPv4, one of IPv6, or both; an empty line has them chosen anew"},
	{name: "gateway", shape: list, def: "the first address of each subnet",
		read: ofNetwork(func(v *engine.NetworkView) string { return lines(v.Config.Gateways) }),
		tune: func(c *engine.NetworkConfig, text string) error { return c.SetGateways(strings.Fields(text)) },
		help: "the way out of each subnet: of a bridge, its own address, where the names of its containers are told, too"},
	{name: "mtu", shape: single, def: "0",
		read: ofNetwork(func(v *engine.NetworkView) string { return strconv.Itoa(v.Config.MTU) }),
		tune: func(c *engine.NetworkConfig, text string) error {
			n, err := parseInt("mtu", orElse(text, "0"), 0, 1<<31-1)
			if err == nil {
				err = c.SetMTU(n)
			}
			return err
		},
		help: "bytes of the largest packet; 0 is 1500, or what the parent has"},
	{name: "nat", shape: single, live: true, def: "1",
		read: ofNetwork(func(v *engine.NetworkView) string { return strconv.Itoa(number(v.Config.NAT)) }),
		tune: func(c *engine.NetworkConfig, text string) error {
			n, err := parseInt("nat", orElse(text, "1"), 0, 1)
			c.NAT = n == 1
			return err
		},
		help: "1: what leaves the network has this machine's address; 0: the containers' own, which others need a route to"},
	{name: "internal", shape: single, def: "0",
		read: ofNetwork(func(v *engine.NetworkView) string { return strconv.Itoa(number(v.Config.Internal)) }),
		tune: func(c *engine.NetworkConfig, text string) error {
			n, err := parseInt("internal", orElse(text, "0"), 0, 1)
			c.Internal = n == 1
			return err
		},
		help: "1: nothing leaves the network or comes in, and no names of others are told"},
	{name: "driver", shape: single, def: "bridge",
		read: ofNetwork(func(v *engine.NetworkView) string { return string(v.Config.Driver) }),
		tune: func(c *engine.NetworkConfig, text string) error { return c.SetDriver(orElse(text, "bridge")) },
		help: "bridge, or macvlan: each container is on the link that parent names, with an address of its own there, and does not reach this machine"},
	{name: "parent", shape: single, def: "none",
		read: ofNetwork(func(v *engine.NetworkView) string { return v.Config.Parent }),
		tune: (*engine.NetworkConfig).SetParent,
		help: "the link of this machine's that a macvlan lies on; write driver first"},
	{name: "members", shape: list, mine: true, read: func(s source) (string, error) {
		return lines(slices.DeleteFunc(s.network.Members(), func(m engine.Member) bool { return !s.sight.seesPath(m.Path) })), nil
	},
		help: "CONTAINER ADDRESS... a line: who has it as its net, and is not removed yet"},
	{name: "interface", shape: single, read: ofNetwork(func(v *engine.NetworkView) string { return v.Link }),
		help: "the link of this machine's that it is, as ip link shows it; empty until the first container needs it"},
	{name: "error", shape: single, read: ofNetwork(func(v *engine.NetworkView) string { return v.Failure }),
		help: "why the last operation failed, and the cure; emptied by the next one that succeeds"},
}

func ofNetwork(get func(*engine.NetworkView) string) reader {
	return func(s source) (string, error) { return get(s.network.View()), nil }
}

func lines[T fmt.Stringer](items []T) string {
	var b strings.Builder
	for _, x := range items {
		b.WriteString(x.String() + "\n")
	}
	return b.String()
}

// orElse is what a text stands for: an empty one, for the default.
func orElse(text, def string) string {
	if text == "" {
		return def
	}
	return text
}
