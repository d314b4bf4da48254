package engine

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Net is what a container has of networks beyond its namespace. It is replaced, never changed.
type Net struct {
	Networks []Attachment `json:"networks,omitempty"`
	Ports    []Port       `json:"ports,omitempty"`
	Hosts    []string     `json:"hosts,omitempty"`
	DNS      []netip.Addr `json:"dns,omitempty"`
	Egress   int64        `json:"egress,omitempty"` // bytes a second; 0 for no bound
	Ingress  int64        `json:"ingress,omitempty"`
}

// Attachment is one network of a container, with the addresses that it wants there: at most one of each family, and of the other
// any.
type Attachment struct {
	Network   string       `json:"network"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

func (a Attachment) String() string {
	words := []string{a.Network}
	for _, addr := range a.Addresses {
		words = append(words, addr.String())
	}
	return strings.Join(words, " ")
}

// Port is a port of this machine's that leads to one of a container's.
type Port struct {
	Host     netip.Addr `json:"host"` // 0.0.0.0 and :: are all addresses of the family
	HostPort uint16     `json:"host_port"`
	Port     uint16     `json:"port"`
	Proto    string     `json:"proto"` // tcp, udp
}

// String is the port as net.ports has it.
func (p Port) String() string {
	s := fmt.Sprintf("%s:%d", netip.AddrPortFrom(p.Host, p.HostPort), p.Port)
	if p.Proto != "tcp" {
		s += "/" + p.Proto
	}
	return s
}

// net changes the part of the extension that is about networks: a copy, since a clone shares what it was made from.
func (c *Config) changeNet(change func(*Net)) {
	n := Net{}
	if c.Extension.Net != nil {
		n = *c.Extension.Net
	}
	change(&n)
	c.Extension.Net = &n
	if len(n.Networks)+len(n.Ports)+len(n.Hosts)+len(n.DNS) == 0 && n.Egress == 0 && n.Ingress == 0 {
		c.Extension.Net = nil
	}
}

func (c *Config) ofNet() Net {
	if c.Extension.Net == nil {
		return Net{}
	}
	return *c.Extension.Net
}

// Networks are the networks that the container is in.
func (c *Config) Networks() []Attachment { return c.ofNet().Networks }

// Net is the file net: none, host, a path, container NAME, or networks with the addresses that are wanted.
func (c *Config) Net() string {
	switch choice := c.Namespace(specs.NetworkNamespace); {
	case choice.Container != "":
		return "container " + choice.Container
	case !choice.New():
		return choice.String()
	}
	return networksText(c.Networks())
}

func networksText(all []Attachment) string {
	if len(all) == 0 {
		return "none"
	}
	var words []string
	for _, a := range all {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}

const netCure = "write none, host, container NAME, a path such as /run/netns/x, or names in networks/ with addresses, such as blue 10.1.2.3, red"

// SetNet sets it.
func (c *Config) SetNet(text string) error {
	text = strings.TrimSpace(text)
	first, rest, _ := strings.Cut(text, " ")
	switch {
	case text == "" || text == "none":
		return c.inNetworks(nil)
	case text == "host" || strings.HasPrefix(text, "/"):
		return c.besideNetworks(text, text)
	case first == "container":
		name := strings.TrimSpace(rest)
		if name == "" || name == "new" || name == "host" || strings.HasPrefix(name, "/") {
			return Invalid("net", text, "no container is named", netCure)
		}
		return c.besideNetworks(text, name)
	case first == "new":
		return Invalid("net", text, "no network has that name", netCure)
	}
	all, err := parseNetworks(text)
	if err != nil {
		return err
	}
	return c.inNetworks(all)
}

// inNetworks gives the container a namespace of its own, in these networks.
func (c *Config) inNetworks(all []Attachment) error {
	c.choose(specs.NetworkNamespace, NamespaceChoice{})
	c.changeNet(func(n *Net) { n.Networks = all })
	return nil
}

// besideNetworks gives it one that is there already.
func (c *Config) besideNetworks(text, choice string) error {
	parsed, err := parseNamespaceChoice("net", choice)
	if err != nil {
		return Invalid("net", text, "neither a container's name nor a path", netCure)
	}
	c.choose(specs.NetworkNamespace, parsed)
	return nil
}

// parseNetworks reads NETWORK [ADDRESS]... , and more of them after commas.
func parseNetworks(text string) (all []Attachment, err error) {
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(part)
		if len(words) == 0 {
			return nil, Invalid("net", text, "there is no name before or after a comma", netCure)
		}
		a := Attachment{Network: words[0]}
		if ValidateNetworkName(a.Network) != nil {
			return nil, Invalid("net", words[0], "not the name of a network", netCure)
		}
		if slices.ContainsFunc(all, func(o Attachment) bool { return o.Network == a.Network }) {
			return nil, Invalid("net", a.Network, "the network stands twice", "name it once")
		}
		for _, w := range words[1:] {
			addr, err := netip.ParseAddr(w)
			if err != nil || addr.Zone() != "" || addr.Is4In6() {
				return nil, Invalid("net", w, "not an address", netCure)
			}
			if slices.ContainsFunc(a.Addresses, func(o netip.Addr) bool { return o.Is4() == addr.Is4() }) {
				return nil, Invalid("net", w, "there is another address of that family", "write one of each at most")
			}
			a.Addresses = append(a.Addresses, addr)
		}
		all = append(all, a)
	}
	if len(all) > maxNetworks {
		return nil, Invalid("net", text, "too many networks", fmt.Sprintf("name %d at most", maxNetworks))
	}
	return all, nil
}

// maxNetworks bounds the networks of one container, each of which is a link.
const maxNetworks = 16

// Ports are the ports of this machine's that lead to the container's.
func (c *Config) Ports() []Port { return c.ofNet().Ports }

// PortLines are the same as net.ports has them.
func (c *Config) PortLines() []string { return lines(c.Ports()) }

func lines[T fmt.Stringer](items []T) (out []string) {
	for _, x := range items {
		out = append(out, x.String())
	}
	return out
}

const portsCure = "write [ADDRESS:]HOSTPORT:PORT[/tcp|udp], such as 8080:80, 0.0.0.0:5353:53/udp or [fd00::1]:80:80; without an address it is 127.0.0.1"

// SetPorts sets them.
func (c *Config) SetPorts(items []string) error {
	var all []Port
	for _, item := range items {
		p, err := parsePort(item)
		if err != nil {
			return err
		}
		for _, o := range all {
			if o.HostPort == p.HostPort && o.Proto == p.Proto && o.Host.Is4() == p.Host.Is4() && (o.Host == p.Host || o.Host.IsUnspecified() || p.Host.IsUnspecified()) {
				return Invalid("net.ports", item, "that port of this machine stands twice", "leave one out")
			}
		}
		all = append(all, p)
	}
	c.changeNet(func(n *Net) { n.Ports = all })
	return nil
}

// parsePort reads one line of net.ports.
func parsePort(item string) (p Port, err error) {
	refuse := func(why string) (Port, error) { return Port{}, Invalid("net.ports", item, why, portsCure) }
	text, proto, has := strings.Cut(strings.TrimSpace(item), "/")
	if p.Proto = proto; !has {
		p.Proto = "tcp"
	}
	if p.Proto != "tcp" && p.Proto != "udp" {
		return refuse("neither tcp nor udp")
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return refuse("not two ports")
	}
	if p.Port, err = portNumber(text[i+1:]); err != nil {
		return refuse("the container's port is not a number from 1 to 65535")
	}
	host := text[:i]
	p.Host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if strings.Contains(host, ":") {
		a, err := netip.ParseAddrPort(host)
		if err != nil || a.Addr().Zone() != "" || a.Addr().Is4In6() || a.Port() == 0 || a.Addr().IsMulticast() {
			return refuse("not an address and a port of this machine's")
		}
		p.Host, p.HostPort = a.Addr(), a.Port()
		return p, nil
	}
	if p.HostPort, err = portNumber(host); err != nil {
		return refuse("this machine's port is not a number from 1 to 65535")
	}
	return p, nil
}

func portNumber(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] == '+' {
		return 0, strconv.ErrRange
	}
	return uint16(n), nil
}

// Hosts are the lines of net.hosts: ADDRESS NAME..., which the container finds in its /etc/hosts, and NAME, by which others in its
// networks find it.
func (c *Config) Hosts() []string { return c.ofNet().Hosts }

// SetHosts sets them.
func (c *Config) SetHosts(items []string) error {
	var all []string
	for _, item := range items {
		words := strings.Fields(item)
		names := words
		if len(words) > 0 {
			if a, err := netip.ParseAddr(words[0]); err == nil && a.Zone() == "" {
				names = words[1:]
			}
		}
		if len(names) == 0 || len(names) == len(words) && len(words) > 1 {
			return Invalid("net.hosts", item, "neither an address with names, nor one name", "write ADDRESS NAME..., as in /etc/hosts, or a further NAME of the container")
		}
		for _, n := range names {
			if !validHost(n) {
				return Invalid("net.hosts", n, "not a host's name", "write labels of letters, digits and - with dots in between, 253 bytes at most")
			}
		}
		all = append(all, strings.Join(words, " "))
	}
	c.changeNet(func(n *Net) { n.Hosts = all })
	return nil
}

// Aliases are the further names of the container in its networks, in lower case.
func (c *Config) Aliases() (names []string) {
	for _, line := range c.Hosts() {
		if !strings.Contains(line, " ") {
			names = append(names, strings.ToLower(line))
		}
	}
	return names
}

// HostLines are the additional lines of its /etc/hosts.
func (c *Config) HostLines() []string {
	return slices.DeleteFunc(slices.Clone(c.Hosts()), func(line string) bool { return !strings.Contains(line, " ") })
}

// validHost reports whether it is a name as RFC 1123, section 2.1, has it, or one with _, which services use.
func validHost(name string) bool {
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// DNS are the servers that the container's questions go to, instead of this machine's.
func (c *Config) DNS() []netip.Addr { return c.ofNet().DNS }

// DNSLines are the same as net.dns has them.
func (c *Config) DNSLines() []string { return lines(c.DNS()) }

// maxDNS is how many servers a resolver asks, resolv.conf(5), MAXNS.
const maxDNS = 3

// SetDNS sets them.
func (c *Config) SetDNS(items []string) error {
	var all []netip.Addr
	for _, item := range items {
		a, err := netip.ParseAddr(strings.TrimSpace(item))
		if err != nil || a.Zone() != "" || a.IsMulticast() || a.IsUnspecified() {
			return Invalid("net.dns", item, "not the address of a server", "write one address a line, such as 10.1.2.3")
		}
		all = append(all, a)
	}
	if len(all) > maxDNS {
		return Invalid("net.dns", all[maxDNS].String(), "a resolver asks three servers", "write three at most")
	}
	c.changeNet(func(n *Net) { n.DNS = all })
	return nil
}

// Rates are the bounds in bytes a second on what the container sends and receives; 0 is none.
func (c *Config) Rates() (egress, ingress int64) { n := c.ofNet(); return n.Egress, n.Ingress }

// RateLines are the same as net.rate has them.
func (c *Config) RateLines() (out []string) {
	egress, ingress := c.Rates()
	for _, r := range []struct {
		name string
		n    int64
	}{{"egress", egress}, {"ingress", ingress}} {
		if r.n != 0 {
			out = append(out, fmt.Sprintf("%s %d", r.name, r.n))
		}
	}
	return out
}

// The kernel's filters of traffic count 32 bits, and what is slower than a packet in a second is no network.
const minRate, maxRate = 1024, 1<<32 - 1

// SetRate sets one of them; 0 and [Max] take it away.
func (c *Config) SetRate(direction string, n int64) error {
	if n == Max {
		n = 0
	}
	if n != 0 && (n < minRate || n > maxRate) {
		return Invalid("net.rate", direction+" "+itoa(n), "out of range", "write 1K to 4294967295 bytes a second, or max")
	}
	switch direction {
	case "egress":
		c.changeNet(func(x *Net) { x.Egress = n })
	case "ingress":
		c.changeNet(func(x *Net) { x.Ingress = n })
	default:
		return Invalid("net.rate", direction, "neither egress nor ingress", "write egress 10M, ingress 10M or both")
	}
	return nil
}

// ociNet and setOCINet carry all of it through config.json, but for the namespace.
func (c *Config) ociNet() string {
	if c.Extension.Net == nil {
		return ""
	}
	text, err := json.Marshal(c.Extension.Net)
	if err != nil { // numbers and addresses cannot fail
		return ""
	}
	return string(text)
}

func (c *Config) setOCINet(text string) error {
	if text == "" {
		return nil
	}
	var n Net
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		return Invalid("net", text, "not what config.json of a container says", "set net and the net.* files instead")
	}
	if len(n.Networks) > 0 {
		all, err := parseNetworks(networksText(n.Networks))
		if err != nil {
			return err
		}
		if c.Namespace(specs.NetworkNamespace).New() {
			c.changeNet(func(x *Net) { x.Networks = all })
		}
	}
	err := c.SetPorts(lines(n.Ports))
	if err == nil {
		err = c.SetHosts(n.Hosts)
	}
	if err == nil {
		err = c.SetDNS(lines(n.DNS))
	}
	if err == nil {
		err = c.SetRate("egress", n.Egress)
	}
	if err == nil {
		err = c.SetRate("ingress", n.Ingress)
	}
	return err
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// validInterface reports whether a link can have that name: dev_valid_name of net/core/dev.c.
func validInterface(name string) bool {
	return name != "" && len(name) <= interfaceNameMax && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n")
}
