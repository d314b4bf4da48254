package firewall

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// The chains and rules are the same whatever is wanted: all that differs is in the sets. So a change is a few elements, and what
// the kernel holds can be compared with what it should hold.

// chain is one of our chains; one without a hook is jumped to.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	rules    []rule
}

// rule is what it is for, which nft shows as its comment, and its expressions.
type rule struct {
	why   string
	exprs []expr.Any
}

// NAT comes a little after that of iptables and of firewalld (-100 and -90, 100 and 110), see the package comment.
const (
	afterTheirDNAT = -85
	afterTheirSNAT = 115
)

// The sets that rules look into.
const (
	bridges    = "bridges"
	internal   = "internal"
	nat        = "nat"
	same       = "same"
	sources4   = "sources4"
	sources6   = "sources6"
	gateways4  = "gateways4"
	gateways6  = "gateways6"
	addresses4 = "addresses4"
	addresses6 = "addresses6"
	guarded    = "guarded"
	uplinks    = "uplinks"
	guard      = "guard"
	ports4     = "ports4"
	ports6     = "ports6"
	any4       = "any4"
	any6       = "any6"
)

// kind is the type of a set: of its keys, and of what a map gives for them.
type kind struct {
	name     string
	key      []nftables.SetDatatype
	data     []nftables.SetDatatype
	interval bool
}

var (
	ifname = nftables.TypeIFName
	addr4  = nftables.TypeIPAddr
	addr6  = nftables.TypeIP6Addr
	proto  = nftables.TypeInetProto
	port   = nftables.TypeInetService
)

// kinds lists our sets. The order of a key's parts is that in which rules load them.
var kinds = []kind{
	{name: bridges, key: types(ifname)},
	{name: internal, key: types(ifname)},
	{name: nat, key: types(ifname)},
	{name: same, key: types(ifname, ifname)},
	{name: sources4, key: types(ifname, addr4), interval: true},
	{name: sources6, key: types(ifname, addr6), interval: true},
	{name: gateways4, key: types(ifname, addr4)},
	{name: gateways6, key: types(ifname, addr6)},
	{name: addresses4, key: types(addr4)},
	{name: addresses6, key: types(addr6)},
	{name: guarded, key: types(nftables.TypeNFProto, ifname)},
	{name: uplinks, key: types(ifname, ifname)},
	{name: guard, key: types(nftables.TypeNFProto)},
	{name: ports4, key: types(addr4, proto, port), data: types(addr4, port)},
	{name: ports6, key: types(addr6, proto, port), data: types(addr6, port)},
	{name: any4, key: types(proto, port), data: types(addr4, port)},
	{name: any6, key: types(proto, port), data: types(addr6, port)},
}

func types(t ...nftables.SetDatatype) []nftables.SetDatatype { return t }

// chains lists our chains; one that is jumped to stands before those that do.
var chains = []chain{
	{
		name: "spoof", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, priority: *nftables.ChainPriorityRaw,
		rules: []rule{
			{"not from a bridge of ours", all(link(in, 0), notIn(bridges), accept)},
			{"route_localnet is on: this machine's own loopback", all(starts(dest4, 127), drop)},
			{"", all(linkAnd(in, source4), isIn(sources4), accept)},
			{"", all(linkAnd(in, source6), isIn(sources6), accept)},
			{"neighbours", all(linkLocal(source6), accept)},
			{"is my address taken?", all(starts(source6, nobody6...), protocol(unix.IPPROTO_ICMPV6), accept)},
			{"not an address of that network", drop},
		},
	},
	{
		name: "published",
		rules: []rule{
			{"", all(portKey(dest4), lookUp(ports4), dnat(dest4))},
			{"", all(portKey(field{family: unix.NFPROTO_IPV4}), lookUp(any4), dnat(dest4))},
			{"", all(portKey(dest6), lookUp(ports6), dnat(dest6))},
			{"", all(portKey(field{family: unix.NFPROTO_IPV6}), lookUp(any6), dnat(dest6))},
		},
	},
	{
		name: "prerouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPrerouting, priority: afterTheirDNAT,
		rules: []rule{
			{"reaches nothing but its bridge", all(link(in, 0), isIn(internal), leave)},
			{"127.x is published on this machine only, see output", all(starts(dest4, 127), leave)},
			{"", all(destIsLocal, jump("published"))},
		},
	},
	{
		name: "output", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookOutput, priority: afterTheirDNAT,
		rules: []rule{
			{"cannot leave lo: refused at once is better than lost", all(starts(dest6, loopback6...), leave)},
			{"", all(destIsLocal, jump("published"))},
		},
	},
	{
		name: "input", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookInput, priority: *nftables.ChainPriorityFilter,
		rules: []rule{
			{"not from a bridge of ours", all(link(in, 0), notIn(bridges), accept)},
			{"who has this address?", all(protocol(unix.IPPROTO_ICMPV6), neighbourhood, accept)},
			{"an address of the bridge itself", all(linkLocal(dest6), accept)},
			{"", all(linkAnd(in, dest4), isIn(gateways4), accept)},
			{"", all(linkAnd(in, dest6), isIn(gateways6), accept)},
			{"reaches nothing but its gateway", all(link(in, 0), isIn(internal), drop)},
			{"another network's gateway", all(address(dest4), isIn(addresses4), drop)},
			{"another network's gateway", all(address(dest6), isIn(addresses6), drop)},
		},
	},
	{
		name: "forward", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward, priority: *nftables.ChainPriorityFilter,
		rules: []rule{
			{"within a network", all(link(in, 0), link(out, 4), isIn(same), accept)},
			{"reaches nothing but its bridge", all(link(in, 0), isIn(internal), drop)},
			{"reached by nothing but its bridge", all(link(out, 0), isIn(internal), drop)},
			{"would leave with its own address", all(link(in, 0), isIn(bridges), state(expr.CtStateBitINVALID), drop)},
			{"", all(link(out, 0), isIn(bridges), state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)},
			{"published", all(link(out, 0), isIn(bridges), wasDNAT, accept)},
			{"another network, or not published", all(link(out, 0), isIn(bridges), drop)},
			{"to elsewhere", all(link(in, 0), isIn(bridges), accept)},
			{"a bridge's own frames", all(link(in, 0), link(out, 4), isIn(uplinks), isBridge(metaIIFKind), accept)},
			{"forwards for us alone", all(load(expr.MetaKeyNFPROTO, 0), link(in, 1), isIn(guarded), drop)},
			{"forwards for us alone", all(load(expr.MetaKeyNFPROTO, 0), link(out, 1), isIn(guarded), drop)},
			{"another bridge's own frames", all(isBridge(metaIIFKind), isBridge(metaOIFKind), accept)},
			{"this machine forwards for us alone", all(load(expr.MetaKeyNFPROTO, 0), isIn(guard), drop)},
		},
	},
	{
		name: "postrouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, priority: afterTheirSNAT,
		rules: []rule{
			{"could not be answered", all(starts(source4, 127), link(out, 0), isIn(bridges), masquerade)},
			{"back to where it came from", all(linkAnd(out, source4), isIn(sources4), wasDNAT, masquerade)},
			{"back to where it came from", all(linkAnd(out, source6), isIn(sources6), wasDNAT, masquerade)},
			{"within a network", all(link(in, 0), link(out, 4), isIn(same), leave)},
			{"", all(link(in, 0), isIn(nat), masquerade)},
		},
	},
}

const (
	in  = expr.MetaKeyIIFNAME
	out = expr.MetaKeyOIFNAME

	// Kinds of links, since 5.1, that neither library knows.
	metaIIFKind expr.MetaKey = 26
	metaOIFKind expr.MetaKey = 27
)

// field is a part of the network header; without a length, only a family.
type field struct {
	family      byte
	offset, len uint32
}

var (
	source4 = field{unix.NFPROTO_IPV4, 12, 4}
	dest4   = field{unix.NFPROTO_IPV4, 16, 4}
	source6 = field{unix.NFPROTO_IPV6, 8, 16}
	dest6   = field{unix.NFPROTO_IPV6, 24, 16}

	nobody6   = make([]byte, 16)
	loopback6 = append(make([]byte, 15), 1)
)

var (
	accept     = all(&expr.Verdict{Kind: expr.VerdictAccept})
	drop       = all(&expr.Verdict{Kind: expr.VerdictDrop})
	leave      = all(&expr.Verdict{Kind: expr.VerdictReturn})
	masquerade = all(&expr.Masq{})

	// Without the link: an address is one of this machine's whichever it is on.
	destIsLocal = all(&expr.Fib{Register: reg(0), ResultADDRTYPE: true, FlagDADDR: true}, equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)))

	// Neighbour solicitation and advertisement.
	neighbourhood = all(
		&expr.Payload{DestRegister: reg(0), Base: expr.PayloadBaseTransportHeader, Len: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg(0), Data: []byte{135}},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg(0), Data: []byte{136}},
	)

	wasDNAT = all(&expr.Ct{Key: expr.CtKeySTATUS, Register: reg(0)}, bits(statusDNAT))
)

const statusDNAT = 1 << 5 // IPS_DST_NAT

// all puts expressions one after another, single ones or lists of them.
func all(parts ...any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		switch p := p.(type) {
		case expr.Any:
			out = append(out, p)
		case []expr.Any:
			out = append(out, p...)
		}
	}
	return out
}

// reg is the register at a 32-bit word, by the name that the kernel gives it: four words have an older one.
func reg(word uint32) uint32 {
	if word%4 == 0 {
		return unix.NFT_REG_1 + word/4
	}
	return unix.NFT_REG32_00 + word
}

func load(key expr.MetaKey, word uint32) *expr.Meta {
	return &expr.Meta{Key: key, Register: reg(word)}
}

// link loads the name of the link that a packet comes from or goes to: four words.
func link(side expr.MetaKey, word uint32) *expr.Meta { return load(side, word) }

func isIn(set string) *expr.Lookup { return &expr.Lookup{SourceRegister: reg(0), SetName: set} }

func notIn(set string) *expr.Lookup {
	return &expr.Lookup{SourceRegister: reg(0), SetName: set, Invert: true}
}

// lookUp replaces a key by what a map holds for it.
func lookUp(set string) *expr.Lookup {
	return &expr.Lookup{SourceRegister: reg(0), DestRegister: reg(0), IsDestRegSet: true, SetName: set}
}

func equal(data []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: data} }

// family lets only packets of a field's family go on: the table is for both.
func (f field) only() []expr.Any {
	return all(load(expr.MetaKeyNFPROTO, 0), equal([]byte{f.family}))
}

func (f field) load(word uint32) *expr.Payload {
	return &expr.Payload{DestRegister: reg(word), Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.len}
}

func address(f field) []expr.Any { return all(f.only(), f.load(0)) }

// linkAnd loads a link's name and an address.
func linkAnd(side expr.MetaKey, f field) []expr.Any {
	return all(f.only(), link(side, 0), f.load(4))
}

// starts compares the beginning of an address, whole bytes.
func starts(f field, head ...byte) []expr.Any {
	f.len = uint32(len(head))
	return all(address(f), equal(head))
}

// linkLocal is fe80::/10.
func linkLocal(f field) []expr.Any {
	mask, want := make([]byte, f.len), make([]byte, f.len)
	copy(mask, []byte{0xff, 0xc0})
	copy(want, []byte{0xfe, 0x80})
	return all(address(f), &expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: f.len, Mask: mask, Xor: make([]byte, f.len)},
		equal(want))
}

func protocol(p byte) []expr.Any { return all(load(expr.MetaKeyL4PROTO, 0), equal([]byte{p})) }

// portKey loads what a port is published by: the address if one is given, the protocol, and the port.
func portKey(f field) []expr.Any {
	out, word := f.only(), f.len/4
	if f.len > 0 {
		out = append(out, f.load(0))
	}
	return append(out, load(expr.MetaKeyL4PROTO, word),
		&expr.Payload{DestRegister: reg(word + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

// dnat sends a packet to the address and port that were looked up.
func dnat(f field) *expr.NAT {
	ip, port := reg(0), reg(f.len/4)
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.family), RegAddrMin: ip, RegAddrMax: ip,
		RegProtoMin: port, RegProtoMax: port, Specified: true}
}

func jump(to string) *expr.Verdict { return &expr.Verdict{Kind: expr.VerdictJump, Chain: to} }

func state(s uint32) []expr.Any {
	return all(&expr.Ct{Key: expr.CtKeySTATE, Register: reg(0)}, bits(s))
}

// bits asks whether any of them is set.
func bits(mask uint32) []expr.Any {
	return all(&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: make([]byte, 4)})
}

func isBridge(key expr.MetaKey) []expr.Any {
	return all(load(key, 0), equal(append([]byte("bridge"), make([]byte, unix.IFNAMSIZ-len("bridge"))...)))
}

// comment is a rule's reason as nft shows it.
func (r rule) comment() []byte {
	if r.why == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, r.why)
}

// set is a kind's set in a table. Its number is its name within a transaction.
func (k kind) set(t *nftables.Table) *nftables.Set {
	s := &nftables.Set{Table: t, Name: k.name, Interval: k.interval, Concatenation: len(k.key) > 1, IsMap: k.data != nil}
	s.ID = uint32(1 + slices.IndexFunc(kinds, func(o kind) bool { return o.name == k.name }))
	s.KeyType = concat(k.key)
	if len(k.key) == 1 && k.key[0].Name == ifname.Name {
		s.KeyByteOrder = binaryutil.NativeEndian // for nft, which prints names of links so
	}
	if k.data != nil {
		s.DataType = concat(k.data)
	}
	return s
}

func concat(t []nftables.SetDatatype) nftables.SetDatatype {
	if len(t) == 1 {
		return t[0]
	}
	out, _ := nftables.ConcatSetType(t...) // fails from six types on
	return out
}
