package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Forwarding is what the host forwards without us.
type Forwarding struct {
	IPv4    bool // net.ipv4.conf.all.forwarding: the host is a router, by somebody else's decision
	IPv6    bool // net.ipv6.conf.all.forwarding, likewise
	PerLink bool // IPv6 can be forwarded for single links, Linux >= 6.17. If neither, IPv6 does not leave bridges
}

// Forwarding reads the host's state.
func (h *Host) Forwarding() (f Forwarding, err error) {
	err = h.visit(func() (err error) { f, err = forwarding(); return err })
	return f, err
}

// forwarding is Forwarding of this thread's namespace.
func forwarding() (Forwarding, error) {
	var f Forwarding
	v4, err4 := sysctlNow("ipv4/conf/all/forwarding")
	v6, err6 := sysctlNow("ipv6/conf/all/forwarding")
	_, per := sysctlNow("ipv6/conf/all/force_forwarding")
	if errors.Is(err6, fs.ErrNotExist) {
		err6 = nil // a kernel without IPv6
	}
	f.IPv4, f.IPv6, f.PerLink = v4 == "1", v6 != "" && v6 != "0", per == nil
	return f, errors.Join(err4, err6)
}

// Flags are the links on which [Host.Uplinks] turned forwarding on, which was off, by the name of the link. Whoever turns it on keeps
// them until Restore.
type Flags struct {
	IPv4 []string `json:"ipv4,omitempty"` // conf/LINK/forwarding was 0
	IPv6 []string `json:"ipv6,omitempty"` // conf/LINK/force_forwarding was 0
}

// The settings behind Flags.
var (
	forward4 = setting{"ipv4", "forwarding", "1"}
	forward6 = setting{"ipv6", "force_forwarding", "1"}
)

// Guarded returns the links whose packets would not be forwarded without us, to any link, for each family. The firewall is to see that
// what comes in by them goes to ours only; if the host is a router anyway, it went everywhere before, and nothing is to be guarded.
func (f Flags) Guarded(now Forwarding) (four, six []string) {
	if !now.IPv4 {
		four = f.IPv4
	}
	if !now.IPv6 {
		six = f.IPv6
	}
	return four, six
}

// Uplinks turns on forwarding on the links that carry packets to and from elsewhere: those that are not ours and have routes. Previous
// is what an earlier call returned; what it returns now replaces that, also if there is an error. A link that has no routes any more
// is put back. One on which somebody else turned forwarding on is left alone, and all are if the host is a router.
//
// Guarded is for IPv4; [Flags.Guarded] has both. Before, call [Host.Intended].
func (h *Host) Uplinks(previous Flags) (now Flags, guarded []string, err error) {
	return h.turnUplinks(previous, sysctl)
}

// Intended returns the Flags that Uplinks would return now, and changes nothing. Whoever keeps those, and has the firewall guard the links
// in them, before Uplinks is called, loses no flag in a crash, and never forwards for anybody else.
func (h *Host) Intended(previous Flags) (Flags, error) {
	flags, _, err := h.turnUplinks(previous, func(name, _ string) (string, error) { return sysctlNow(name) })
	return flags, err
}

// setter is sysctl, or what reads only.
type setter func(name, value string) (was string, err error)

func (h *Host) turnUplinks(previous Flags, set setter) (now Flags, guarded []string, err error) {
	now = previous
	var four, six []string
	err = h.with(func(s *socket) (err error) {
		if four, err = s.uplinks(unix.AF_INET); err == nil {
			six, err = s.uplinks(unix.AF_INET6)
		}
		return err
	})
	if err != nil {
		return now, nil, fmt.Errorf("find uplinks: %w", err)
	}
	err = h.visit(func() error {
		f, err := forwarding()
		if err != nil {
			return err
		}
		var err4, err6 error
		if f.IPv4 {
			now.IPv4 = nil // whoever turned it on for all wrote over ours; whoever turns it off for all does so again
		} else {
			now.IPv4, err4 = forward4.turn(previous.IPv4, four, set)
		}
		if !f.IPv6 {
			now.IPv6, err6 = forward6.turn(previous.IPv6, six, set)
		}
		guarded, _ = now.Guarded(f)
		return errors.Join(err4, err6)
	})
	return now, guarded, err
}

// uplinks names the links, of those that are not ours, which have routes.
func (s *socket) uplinks(family int) ([]string, error) {
	routes, err := s.routes(family)
	if err != nil {
		return nil, err
	}
	used := map[int]bool{}
	for _, r := range routes {
		// Every link has one to its link-local neighbours, and they are not forwarded to.
		if r.kind != unix.RTN_UNICAST || r.table == unix.RT_TABLE_LOCAL || r.to.Bits() > 0 && r.to.Addr().IsLinkLocalUnicast() {
			continue
		}
		for _, index := range r.links {
			used[index] = true
		}
	}
	links, err := s.links()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, l := range links {
		if used[l.index] && l.flags&unix.IFF_LOOPBACK == 0 && !strings.HasPrefix(l.name, Prefix) {
			out = append(out, l.name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// turn turns a flag on for links, and off again for those that are none any more. It returns those for which it was off before us.
func (s setting) turn(previous, links []string, set setter) (now []string, err error) {
	var errs []error
	for _, l := range links {
		was, err := set(s.file(l), s.value)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
			if slices.Contains(previous, l) {
				now = append(now, l)
			}
		case was == "0" || slices.Contains(previous, l):
			now = append(now, l)
		}
	}
	for _, l := range previous {
		if !slices.Contains(links, l) {
			if err := s.back(l, set); err != nil {
				errs, now = append(errs, err), append(now, l)
			}
		}
	}
	return now, errors.Join(errs...)
}

// back turns the flag off; a link that is gone is fine.
func (s setting) back(link string, set setter) error {
	_, err := set(s.file(link), "0")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Restore turns off what Uplinks turned on. If the host has become a router, it keeps what a router has.
func (h *Host) Restore(flags Flags) error {
	return h.visit(func() error {
		f, err := forwarding()
		errs := []error{err}
		if !f.IPv4 && err == nil {
			for _, l := range flags.IPv4 {
				errs = append(errs, forward4.back(l, sysctl))
			}
		}
		for _, l := range flags.IPv6 {
			errs = append(errs, forward6.back(l, sysctl))
		}
		return errors.Join(errs...)
	})
}
