package fs

import (
	"fmt"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
)

// netRows are a container's networks, and what it publishes.
var netRows = []row{
	{name: "net", shape: single, read: ofConfig((*engine.Config).Net), set: asText((*engine.Config).SetNet),
		help: "none: loopback only; host; container NAME; a path such as /run/netns/x; or names in networks/ with addresses if they matter: blue, or blue 10.1.2.3, red"},
	{name: "net.ports", shape: list, live: true, def: "none",
		read: ofItems((*engine.Config).PortLines), list: &listing{(*engine.Config).PortLines, (*engine.Config).SetPorts},
		help: "[ADDRESS:]HOSTPORT:PORT a line, or with /udp behind it: a port of this machine's that leads to one of the container's; 127.0.0.1 where no address is given"},
	{name: "net.address", shape: keyed, read: ofContainer(func(c engine.Container) (string, error) { return addressText(c.Net()), nil }),
		help: "LINK NETWORK MAC ADDRESS... via GATEWAY... a line, while it runs in networks of its own"},
	{name: "net.stat", shape: keyed, read: ofContainer(func(c engine.Container) (string, error) { return netStatText(c.NetStats()), nil }),
		help: "LINK.COUNTER NUMBER a line, as the container counts: rx is what it receives"},
	{name: "net.hosts", shape: list, def: "none",
		read: ofItems((*engine.Config).Hosts), list: &listing{(*engine.Config).Hosts, (*engine.Config).SetHosts},
		help: "ADDRESS NAME... a line, for its /etc/hosts; or NAME, by which others in its networks find it, too"},
	{name: "net.dns", shape: list, def: "those of this machine",
		read: ofItems((*engine.Config).DNSLines), list: &listing{(*engine.Config).DNSLines, (*engine.Config).SetDNS},
		help: "an address a line of the servers that are asked for names outside its networks, three at most"},
	{name: "net.rate", shape: keyed, live: true, def: "none",
		read: ofItems((*engine.Config).RateLines), keys: setRate,
		help: "egress and ingress BYTES a second, such as egress 10M: bounds on what it sends and receives in each of its networks; max is none"},
}

// setRate takes a size as the limits of resources do.
func setRate(c *engine.Config, direction, value string) error {
	n := int64(0)
	if value != "" {
		var err error
		if n, err = parseSize("net.rate", value); err != nil {
			return err
		}
		if n == 0 {
			return engine.Invalid("net.rate", direction+" "+value, "nothing could be sent", "write max for no bound, or net none for no network")
		}
	}
	return c.SetRate(direction, n)
}

func addressText(links []engine.NetLink) string {
	var b strings.Builder
	for _, l := range links {
		network := l.Network
		if network == "" {
			network = "-"
		}
		fmt.Fprintf(&b, "%s %s %s", l.Name, network, l.MAC)
		for _, a := range l.Addresses {
			b.WriteString(" " + a.String())
		}
		for _, g := range l.Gateways {
			b.WriteString(" via " + g.String())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func netStatText(stats []engine.Stat) string {
	var b strings.Builder
	for _, s := range stats {
		fmt.Fprintf(&b, "%s %d\n", s.Name, s.Value)
	}
	return b.String()
}
