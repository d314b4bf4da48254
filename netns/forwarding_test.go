package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// uplink gives the host a link with addresses, a default route, and somebody at the other end who routes back.
func (w world) uplink(name string) *os.File {
	w.t.Helper()
	lan := w.lan(name, "192.0.2.1/24 2001:db8::1/64")
	l := w.find(name)
	var requests []*nl.NetlinkRequest
	for _, p := range prefixes("192.0.2.9/24 2001:db8::9/64") {
		requests = append(requests, address(unix.RTM_NEWADDR, unix.NLM_F_CREATE, l.index, p))
	}
	for _, g := range addrs("192.0.2.1 2001:db8::1") {
		requests = append(requests, route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, l.index, family(g), g))
	}
	w.must(w.do(requests...))
	w.in(lan, func() error {
		s, err := dial()
		if err != nil {
			return err
		}
		defer s.close()
		other, err := s.link("lan0", 0)
		if err != nil {
			return err
		}
		var requests []*nl.NetlinkRequest
		for _, g := range addrs("192.0.2.9 2001:db8::9") {
			requests = append(requests, route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, other.index, family(g), g))
		}
		return s.do(requests...)
	})
	return lan
}

// flags are the forwarding flags of a link, IPv4 and IPv6.
func (w world) flags(link string) string {
	return w.value(w.ns, forward4.file(link)) + w.value(w.ns, forward6.file(link))
}

// TestUplinks: packets of a container pass the host, which is no router, and get their answers; afterwards it is as it was.
func TestUplinks(t *testing.T) {
	w := newWorld(t)
	lan := w.uplink("uplink0")
	w.lan("idle0", "198.51.100.1/24") // has no routes
	_, err := w.Apply(blue())
	w.must(err)
	a := w.container(2)
	f, err := w.Forwarding()
	if err != nil || f.IPv4 || f.IPv6 {
		t.Fatalf("%+v (%v)", f, err)
	}
	per := w.value(w.ns, "ipv6/conf/all/force_forwarding") != "-"
	if f.PerLink != per {
		t.Errorf("%+v", f)
	}
	before := w.flags("uplink0")
	intended, err := w.Intended(Flags{})
	w.must(err)
	if got := w.flags("uplink0"); got != before {
		t.Errorf("an intention makes it %s", got)
	}
	flags, guarded, err := w.Uplinks(Flags{})
	if fmt.Sprint(flags) != fmt.Sprint(intended) {
		t.Errorf("intended %v, became %v", intended, flags)
	}
	want := Flags{IPv4: []string{"uplink0"}}
	if per {
		want.IPv6 = want.IPv4
	}
	if err != nil || fmt.Sprint(flags) != fmt.Sprint(want) || fmt.Sprint(guarded) != "[uplink0]" {
		t.Errorf("%v, %v (%v)", flags, guarded, err)
	}
	four, six := flags.Guarded(f)
	if fmt.Sprint(four, six) != fmt.Sprint(want.IPv4, want.IPv6) {
		t.Errorf("guarded %v, %v", four, six)
	}
	if got := w.flags("idle0"); got != before {
		t.Errorf("idle0 has %s", got)
	}
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		if netip.MustParseAddr(to).Is6() && !per {
			continue
		}
		w.must(w.ping(a, to, 4000))
		_, err := w.stream(a, lan, to, 1<<20)
		w.must(err)
	}
	// It is persisted, and another call changes nothing.
	b, err := json.Marshal(flags)
	w.must(err)
	var read Flags
	w.must(json.Unmarshal(b, &read))
	again, guarded, err := w.Uplinks(read)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(want) || fmt.Sprint(guarded) != "[uplink0]" {
		t.Errorf("again: %v, %v (%v)", again, guarded, err)
	}
	w.must(w.Restore(again))
	w.must(w.Restore(again))
	if got := w.flags("uplink0"); got != before {
		t.Errorf("afterwards: %s, before %s", got, before)
	}
}

// TestUplinksOfOthers: what somebody else turned on stays on, and is not guarded; a router stays one.
func TestUplinksOfOthers(t *testing.T) {
	w := newWorld(t)
	w.uplink("uplink0")
	set := func(name, value string) {
		t.Helper()
		w.in(w.ns, func() error {
			_, err := sysctl(name, value)
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		})
	}
	set(forward4.file("uplink0"), "1")
	set(forward6.file("uplink0"), "1")
	before := w.flags("uplink0")
	flags, guarded, err := w.Uplinks(Flags{})
	if err != nil || len(flags.IPv4)+len(flags.IPv6)+len(guarded) != 0 {
		t.Errorf("%v, %v (%v)", flags, guarded, err)
	}
	w.must(w.Restore(flags))
	if got := w.flags("uplink0"); got != before {
		t.Errorf("afterwards: %s, before %s", got, before)
	}

	// Turned off under us, on again, and then the host becomes a router.
	set(forward4.file("uplink0"), "0")
	flags, _, err = w.Uplinks(flags)
	w.must(err)
	set("ipv4/conf/all/forwarding", "1")
	flags, guarded, err = w.Uplinks(flags)
	if err != nil || len(flags.IPv4)+len(guarded) != 0 {
		t.Errorf("a router: %v, %v (%v)", flags, guarded, err)
	}
	w.must(w.Restore(Flags{IPv4: []string{"uplink0"}}))
	if got := w.flags("uplink0"); got[:1] != "1" {
		t.Errorf("a router's flag is %s", got)
	}
	set("ipv4/conf/all/forwarding", "0")
	flags, guarded, err = w.Uplinks(flags)
	if err != nil || fmt.Sprint(flags.IPv4, guarded) != "[uplink0] [uplink0]" {
		t.Errorf("no router any more: %v, %v (%v)", flags, guarded, err)
	}

	// It loses its routes; and then it goes.
	w.must(w.do(address(unix.RTM_DELADDR, 0, w.find("uplink0").index, prefixes("192.0.2.9/24")[0])))
	flags, guarded, err = w.Uplinks(flags)
	if err != nil || len(flags.IPv4)+len(guarded) != 0 || w.flags("uplink0")[:1] != "0" {
		t.Errorf("without routes: %v, %v (%v), %s", flags, guarded, err, w.flags("uplink0"))
	}
	flags.IPv4 = []string{"uplink0"}
	w.must(w.traffic.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink0"}}))
	w.must(w.Restore(flags))
	flags, _, err = w.Uplinks(flags)
	if err != nil || len(flags.IPv4)+len(flags.IPv6) != 0 {
		t.Errorf("gone: %v (%v)", flags, err)
	}
}

// TestInternalDoesNotForward: what comes in by an internal bridge stays there.
func TestInternalDoesNotForward(t *testing.T) {
	w := newWorld(t)
	w.uplink("uplink0")
	b := blue()
	b.Internal = true
	_, err := w.Apply(b)
	w.must(err)
	_, _, err = w.Uplinks(Flags{})
	w.must(err)
	a := w.container(2)
	w.must(w.ping(a, "10.88.0.1", 10))
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		if w.reaches(a, to) {
			t.Errorf("%s was reached", to)
		}
	}
	b.Internal = false
	_, err = w.Apply(b)
	w.must(err)
	if !w.reaches(a, "192.0.2.1") {
		t.Errorf("not even when it is not internal")
	}
}

// reaches says whether an echo comes back soon.
func (w world) reaches(from *os.File, to string) bool {
	return w.pingFor(from, to, 10, patience/10) == nil
}
