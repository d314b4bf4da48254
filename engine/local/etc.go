package local

import (
	"net/netip"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/netns/names"
	"github.com/ctrfs/ctrfs/overlay"
)

// etc are the files that tell a program about its network, resolv.conf(5), hosts(5) and hostname(5), which lie over those of the root
// and which only the container sees.
type etc struct {
	places []plan.Prepared
	files  []*os.File
}

const etcDir = "/etc"

// writeEtc makes them, for a container that is to find others: without a network there is nothing to tell.
func (s *starting) writeEtc(wires []wire) error {
	config := s.view.Config
	if !config.OwnMounts() || s.root == nil || len(s.root.Mounts) == 0 {
		return nil
	}
	texts := s.c.etcTexts(config, s.view.Name, wires)
	var wanted []overlay.Text
	for _, t := range texts {
		target := etcDir + "/" + t.Name
		if slices.ContainsFunc(config.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == target || m.Destination == etcDir }) {
			continue
		}
		there, dir := s.root.Lies(target)
		if !there && (!dir || config.RootMode() == engine.RootReadOnly) {
			continue
		}
		wanted = append(wanted, t)
		s.etc.places = append(s.etc.places, plan.Prepared{Target: target, Text: "its own " + t.Name})
	}
	if len(wanted) == 0 {
		return nil
	}
	uid, gid := uint32(0), uint32(0)
	if ids := s.around.ids; ids != nil {
		uid, gid = ids.UID, ids.GID
	}
	var err error
	s.etc.files, err = overlay.Texts(uid, gid, wanted)
	return err
}

// etcTexts are the files' contents.
func (c *container) etcTexts(config *engine.Config, name string, wires []wire) []overlay.Text {
	host := config.Namespace(specs.NetworkNamespace).Host
	if lender, ok := c.other(config.Namespace(specs.NetworkNamespace).Container); ok && !host {
		lender.mu.Lock()
		wires = lender.wires
		lender.mu.Unlock()
	}
	if len(wires) == 0 && !host && len(config.DNS()) == 0 && len(config.HostLines()) == 0 {
		return nil
	}
	hostname := config.EffectiveHostname(name)
	if config.Namespace(specs.UTSNamespace).Host {
		hostname, _ = os.Hostname()
	}
	servers, search, options := resolving(config, wires, host)
	var own []netip.Addr
	for _, w := range wires {
		own = append(own, w.addresses...)
	}
	return []overlay.Text{
		{Name: "resolv.conf", Text: names.ResolvConf(servers, search, options)},
		{Name: "hosts", Text: names.Hosts(own, hostname, config.HostLines())},
		{Name: "hostname", Text: hostname + "\n"},
	}
}

// resolving says whom a program asks for names: the resolver of a network of its own, which knows about net.dns; else the servers of
// net.dns, or this machine's.
func resolving(config *engine.Config, wires []wire, host bool) (servers []netip.Addr, search, options []string) {
	for _, w := range wires {
		c := w.n.View().Config
		if c.Driver == engine.DriverBridge {
			return c.Gateways, nil, []string{"ndots:0"} // a name is asked for as it is written, the host's search domains are not for it
		}
	}
	if servers = config.DNS(); len(servers) > 0 {
		return servers, nil, nil
	}
	if !host && len(wires) == 0 {
		return nil, nil, nil
	}
	for _, s := range hostServers() {
		servers = append(servers, s.Addr())
	}
	return servers, nil, nil
}
