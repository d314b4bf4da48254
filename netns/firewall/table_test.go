package firewall

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newHost is a host without anything on it.
func newHost(t testing.TB) world {
	t.Helper()
	requireRoot(t)
	requireProgram(t, "nft")
	return world{place: newPlace(t, "host")}
}

// listing is our table as nft prints it.
func (w world) listing() string {
	w.t.Helper()
	return w.run("", "nft", "list", "table", "inet", "ctrfs-test")
}

// contents is the listing in an order that does not depend on how it came to be.
func (w world) contents() string {
	w.t.Helper()
	list := strings.FieldsFunc(w.listing(), func(r rune) bool { return strings.ContainsRune("\n,{}", r) })
	for i := range list {
		list[i] = strings.TrimSpace(strings.Replace(list[i], "elements =", "", 1))
	}
	slices.Sort(list)
	return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), "\n")
}

// others is everything but our table, handles included, as nft and iptables print it.
func (w world) others() string {
	w.t.Helper()
	var b strings.Builder
	for line := range strings.Lines(w.run("", "nft", "list", "tables")) {
		f := strings.Fields(line) // table inet name
		if f[2] != "ctrfs-test" {
			b.WriteString(w.run("", "nft", "-a", "list", "table", f[1], f[2]))
		}
	}
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(w.run("", save)) {
			if !strings.HasPrefix(line, "#") { // when it was
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

func (w world) check(t *Table, want bool) {
	w.t.Helper()
	if ok, err := t.Check(); ok != want || err != nil {
		w.t.Errorf("the table is as it should be: %v (%v), wanted %v", ok, err, want)
	}
}

// TestApply: whatever was before, the table is what is wanted, and a second time nothing changes.
func TestApply(t *testing.T) {
	w := newHost(t)
	tab := w.table()
	w.check(tab, true)
	all := Wanted{Networks: networks(), Ports: ports(), Guarded4: []string{"up0"}, Guarded6: []string{"up0"}}
	fewer := Wanted{Networks: networks()[1:], Ports: ports()[:6]}
	moved := Wanted{Networks: networks(), Ports: slices.Clone(ports())}
	for i := range moved.Ports {
		moved.Ports[i].To = netip.AddrPortFrom(moved.Ports[i].To.Addr().Next(), 81)
	}
	made := map[string]string{}
	wanted := map[string]Wanted{"all": all, "fewer": fewer, "moved": moved, "nothing": {}}
	for name, x := range wanted {
		other := w.table()
		w.must(other.Apply(x))
		w.check(other, true)
		made[name] = w.contents()
		w.must(other.Remove())
		w.check(other, true)
	}
	for from := range wanted {
		for to := range wanted {
			w.must(tab.Apply(wanted[from]))
			w.must(tab.Apply(wanted[to]))
			w.must(tab.Apply(wanted[to]))
			w.check(tab, true)
			if got := w.contents(); got != made[to] {
				t.Errorf("from %s to %s there is\n%s\nwanted\n%s", from, to, got, made[to])
			}
		}
	}
	w.must(tab.Remove())
	w.must(tab.Remove())
	if got := w.run("", "nft", "list", "ruleset"); got != "" {
		t.Errorf("left: %s", got)
	}
}

// TestHere: without a descriptor, all is done where the caller is.
func TestHere(t *testing.T) {
	w := newHost(t)
	w.do(func() {
		tab := Open("ctrfs-test")
		w.must(tab.Apply(Wanted{Networks: networks(), Ports: ports()}))
		w.check(tab, true)
		if got, err := Tables("ctrfs-"); err != nil || !slices.Equal(got, []string{"ctrfs-test"}) {
			t.Errorf("tables: %v (%v)", got, err)
		}
		if got, err := Obstacles(); err != nil || got != nil {
			t.Errorf("obstacles: %v (%v)", got, err)
		}
	})
	w.check(w.table(), false)
	if w.contents() == "" {
		t.Error("there is no table")
	}
}

// TestApplyIsSmall: a port more is an element, not a table; a table that is right already, such as the one a server that was
// started anew finds, is left alone.
func TestApplyIsSmall(t *testing.T) {
	w := newHost(t)
	tab := w.wantedTable()
	handle := func() string { return w.run("", "nft", "-a", "list", "table", "inet", "ctrfs-test") }
	before := handle()
	w.must(tab.Apply(Wanted{Networks: networks(), Ports: append(ports(), publish("0.0.0.0:9999", "10.1.0.2:80", "bra")...)}))
	if now := handle(); strings.Count(now, "9999") != 2 || len(strings.Split(before, "\n"))+2 < len(strings.Split(now, "\n")) {
		t.Errorf("not two elements more:\n%s", now)
	}
	w.must(tab.Apply(Wanted{Networks: networks(), Ports: ports()}))
	if now := handle(); now != before {
		t.Errorf("the table was made anew:\n%s\nbefore:\n%s", now, before)
	}
	w.must(w.table().Apply(Wanted{Networks: networks(), Ports: ports()}))
	if now := handle(); now != before {
		t.Errorf("another server made the table anew:\n%s\nbefore:\n%s", now, before)
	}
}

// TestRefused: what cannot be is refused before anything is changed.
func TestRefused(t *testing.T) {
	w := newHost(t)
	tab := w.wantedTable()
	before := w.contents()
	p := publish("0.0.0.0:8080", "10.1.0.2:80", "bra")[0]
	with := func(change func(p *Port)) Wanted {
		q := p
		change(&q)
		return Wanted{Networks: networks(), Ports: []Port{p, q}}
	}
	for name, w := range map[string]struct {
		wanted Wanted
		errno  unix.Errno
	}{
		"protocol":  {with(func(p *Port) { p.Proto = "sctp" }), unix.EINVAL},
		"no port":   {with(func(p *Port) { p.Port = 0 }), unix.EINVAL},
		"no host":   {with(func(p *Port) { p.Host = netip.Addr{} }), unix.EINVAL},
		"loopback6": {with(func(p *Port) { p.Host, p.To = netip.IPv6Loopback(), netip.MustParseAddrPort("[fd01::2]:80") }), unix.EINVAL},
		"family":    {with(func(p *Port) { p.Host = netip.IPv6Unspecified() }), unix.EINVAL},
		"twice":     {with(func(p *Port) { p.To = netip.MustParseAddrPort("10.1.0.3:80") }), unix.EEXIST},
		"link":      {Wanted{Networks: []Network{{Link: "sixteen-bytes-is"}}}, unix.EINVAL},
		"subnet":    {Wanted{Networks: []Network{{Link: "bra", Subnets: []netip.Prefix{{}}}}}, unix.EINVAL},
		"guarded":   {Wanted{Guarded4: []string{""}, Guarded6: []string{""}}, unix.EINVAL},
	} {
		if err := tab.Apply(w.wanted); !errors.Is(err, w.errno) {
			t.Errorf("%s: %v, wanted %v", name, err, w.errno)
		}
	}
	w.must(tab.Apply(with(func(p *Port) {})))
	w.must(tab.Apply(Wanted{Networks: networks(), Ports: ports()}))
	if now := w.contents(); now != before {
		t.Errorf("changed:\n%s", now)
	}
}

// TestOneTransaction: the kernel refuses the last element of a table made anew, and the first and the last of a change; then nothing is changed.
func TestOneTransaction(t *testing.T) {
	w := newHost(t)
	tab := w.wantedTable()
	before := w.run("", "nft", "-a", "list", "table", "inet", "ctrfs-test")
	next, err := compile(Wanted{Networks: networks()[:1]})
	w.must(err)
	next.add(any6, "too long a key for any of them", element{})
	if err := tab.replace(next); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a wrong element: %v", err)
	}
	next.add(bridges, "too long a key for any of them", element{})
	if changed, err := tab.amend(next); !changed || !errors.Is(err, unix.EINVAL) {
		t.Errorf("a wrong element: %v %v", changed, err)
	}
	if now := w.run("", "nft", "-a", "list", "table", "inet", "ctrfs-test"); now != before {
		t.Errorf("a transaction that failed left\n%s\nbefore:\n%s", now, before)
	}
	w.check(tab, true)
	w.must(tab.replace(tab.held)) // what else the kernel had to say of those is not taken for its answer
}

// TestSubnetsOverlap: a subnet within another of its network is no element of its own, which the kernel would refuse.
func TestSubnetsOverlap(t *testing.T) {
	w := newHost(t)
	tab := w.table()
	n := networks()[0]
	for _, s := range []string{"10.1.0.128/25", "10.1.0.7/24", "fd01::/80", "172.16.0.0/12"} {
		n.Subnets = append(n.Subnets, netip.MustParsePrefix(s))
	}
	w.must(tab.Apply(Wanted{Networks: []Network{n}}))
	w.check(tab, true)
	if got := len(tab.held[sources4]) + len(tab.held[sources6]); got != 3 {
		t.Errorf("%d subnets, wanted 3", got)
	}
}

// TestMany: more ports than fit into a message, and more messages than fit into a socket's usual buffer, are one transaction too.
func TestMany(t *testing.T) {
	w := newHost(t)
	tab := w.table()
	var many []Port
	for i := range 20000 {
		many = append(many, Port{Proto: "tcp", Host: netip.MustParseAddr("2001:db8:1::1"), Port: uint16(10000 + i),
			To: netip.MustParseAddrPort("[fd01::2]:80"), Link: "bra"})
	}
	w.must(tab.Apply(Wanted{Networks: networks(), Ports: many[:1]}))
	w.must(tab.Apply(Wanted{Networks: networks(), Ports: many}))
	w.check(tab, true)
	w.must(tab.replace(tab.held))
	w.check(tab, true)
	w.must(tab.Apply(Wanted{Networks: networks()}))
	w.check(tab, true)
}

// tamper is what somebody else may do to our table, for nft.
var tamper = map[string]string{
	"flush everything":     "flush ruleset",
	"delete the table":     "delete table inet ctrfs-test",
	"flush the table":      "flush table inet ctrfs-test",
	"flush a chain":        "flush chain inet ctrfs-test forward",
	"add a rule":           "add rule inet ctrfs-test forward accept",
	"insert a rule":        "insert rule inet ctrfs-test input ip saddr 10.1.0.2 accept",
	"delete an element":    "delete element inet ctrfs-test bridges { bra }",
	"delete a port":        "delete element inet ctrfs-test any4 { tcp . 8080 }",
	"add a port":           "add element inet ctrfs-test any4 { tcp . 22 : 10.1.0.2 . 22 }",
	"move a port":          "delete element inet ctrfs-test any4 { tcp . 8080 }; add element inet ctrfs-test any4 { tcp . 8080 : 10.1.0.3 . 80 }",
	"add a chain":          "add chain inet ctrfs-test stray",
	"add a set":            "add set inet ctrfs-test stray { type ipv4_addr; }",
	"change a policy":      "add chain inet ctrfs-test forward { policy drop; }",
	"a subnet":             "delete element inet ctrfs-test sources4 { bra . 10.1.0.0/24 }",
	"an element of guard":  "add element inet ctrfs-test guard { ipv4 }",
	"a table like ours":    "delete table inet ctrfs-test; add table inet ctrfs-test",
	"replace a first rule": "replace iifname . oifname @uplinks accept comment \"within a network\"",
	"take away a verdict":  "replace iifname . oifname @same comment \"within a network\"",
}

// change does it.
func (w world) change(what string) {
	w.t.Helper()
	by, ok := strings.CutPrefix(what, "replace ")
	if !ok {
		w.run(what, "nft", "-f", "-")
		return
	}
	for line := range strings.Lines(w.run("", "nft", "-a", "list", "chain", "inet", "ctrfs-test", "forward")) {
		if _, handle, ok := strings.Cut(strings.TrimSpace(line), "# handle "); ok && strings.Contains(line, "@same") {
			w.run("replace rule inet ctrfs-test forward handle "+handle+" "+by, "nft", "-f", "-")
			return
		}
	}
	w.t.Error("no rule to replace")
}

// TestCheck: every change by somebody else is seen, and Apply makes the table anew.
func TestCheck(t *testing.T) {
	w := newHost(t)
	for name, what := range tamper {
		tab := w.wantedTable()
		w.check(tab, true)
		before := w.listing()
		w.change(what)
		if ok, err := tab.Check(); ok || err != nil {
			t.Errorf("%s: not seen (%v)", name, err)
		}
		w.must(tab.Apply(Wanted{Networks: networks(), Ports: ports()}))
		w.check(tab, true)
		if now := w.listing(); now != before {
			t.Errorf("%s: afterwards there is\n%s\nwanted\n%s", name, now, before)
		}
	}
}

// TestApplyOverChanges: an element that cannot be deleted any more is no reason to fail.
func TestApplyOverChanges(t *testing.T) {
	w := newHost(t)
	for name, what := range tamper {
		tab := w.wantedTable()
		w.change(what)
		w.must(tab.Apply(Wanted{Networks: networks()[1:]}))
		if strings.HasPrefix(name, "add") || strings.HasPrefix(name, "insert") || strings.HasPrefix(name, "change") || strings.HasPrefix(what, "replace") {
			w.must(tab.Apply(Wanted{Networks: networks()[1:]})) // such are looked for when nothing else is to be done, and by Watch
		}
		if name != "flush the table" && name != "flush a chain" && name != "an element of guard" {
			w.check(tab, true)
		}
		w.must(tab.Remove())
	}
}

// TestTables: the names that begin so, of our family.
func TestTables(t *testing.T) {
	w := newHost(t)
	w.run("add table inet ctrfs-1; add table inet ctrfs-2; add table ip ctrfs-3; add table inet other", "nft", "-f", "-")
	got, err := tablesIn(int(w.ns.Fd()), "ctrfs-")
	if want := []string{"ctrfs-1", "ctrfs-2"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v (%v), wanted %v", got, err, want)
	}
}

// BenchmarkPublish is one port published and unpublished, on a table that has that many.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			w := newHost(b)
			tab := w.table()
			many := manyPorts(n)
			w.must(tab.Apply(Wanted{Networks: networks(), Ports: many}))
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				w.must(tab.Apply(Wanted{Networks: networks(), Ports: many[1:]}))
				w.must(tab.Apply(Wanted{Networks: networks(), Ports: many}))
				took = append(took, time.Since(start))
			}
			reportMedian(b, took)
		})
	}
}

// BenchmarkThousand is a thousand ports published at once and unpublished.
func BenchmarkThousand(b *testing.B) {
	w := newHost(b)
	tab := w.table()
	many := manyPorts(1000)
	w.must(tab.Apply(Wanted{Networks: networks()}))
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		w.must(tab.Apply(Wanted{Networks: networks(), Ports: many}))
		w.must(tab.Apply(Wanted{Networks: networks()}))
		took = append(took, time.Since(start))
	}
	reportMedian(b, took)
}

// BenchmarkReplace is a table with a thousand ports made anew, as by a repair.
func BenchmarkReplace(b *testing.B) {
	w := newHost(b)
	tab := w.table()
	w.must(tab.Apply(Wanted{Networks: networks(), Ports: manyPorts(1000)}))
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		w.must(tab.replace(tab.held))
		took = append(took, time.Since(start))
	}
	reportMedian(b, took)
}

func reportMedian(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "median-µs")
}

func manyPorts(n int) []Port {
	var out []Port
	for i := range n {
		out = append(out, Port{Proto: "tcp", Host: netip.IPv4Unspecified(), Port: uint16(10000 + i),
			To: netip.MustParseAddrPort("10.1.0.2:80"), Link: "bra"})
	}
	return out
}
