package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watched are the kernel's announcements that can mean that bridges, routes or flags are no longer as they should be.
var watched = []int{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_NETCONF,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_NETCONF,
}

// Changes come in crowds, and a call looks at everything.
const (
	watchQuiet = 100 * time.Millisecond // without news before the call
	watchMost  = time.Second            // after the first news, whatever comes
)

// Watch calls back after links, addresses, routes or forwarding flags of the host have changed, until the context ends: once for changes
// that come together, never twice at the same time, and also for changes that the callback makes (so it is to change nothing when
// there is nothing to do). The coming and going of our own wires is no change.
//
// It returns when the watch is in place. Error: the kernel's.
func (h *Host) Watch(ctx context.Context, changed func()) error {
	var news *os.File
	err := h.visit(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		news = os.NewFile(uintptr(fd), "rtnetlink")
		// Without an address of its own, the kernel takes it for the sender of all news, who is not told.
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return errors.Join(err, news.Close())
		}
		for _, group := range watched {
			if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
				return errors.Join(err, news.Close())
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("watch the host's network: %w", err)
	}
	v := view{}
	err = h.with(func(s *socket) error { // after the socket hears: nothing is between them
		links, err := s.links()
		for _, l := range links {
			v[l.index] = face(l)
		}
		return err
	})
	if err != nil {
		return errors.Join(fmt.Errorf("watch the host's network: %w", err), news.Close())
	}
	stop := context.AfterFunc(ctx, func() { news.Close() })
	go func() {
		defer stop()
		defer news.Close()
		v.watch(news, changed)
	}()
	return nil
}

// watch reads until the file is closed.
func (v view) watch(news *os.File, changed func()) {
	buf := make([]byte, receiveMax)
	for {
		if err := news.SetReadDeadline(time.Time{}); err != nil {
			return
		}
		matters, err := v.listen(news, buf)
		if err != nil {
			return
		}
		if !matters {
			continue
		}
		for end := time.Now().Add(watchMost); ; {
			quiet := time.Now().Add(watchQuiet)
			if quiet.After(end) {
				quiet = end
			}
			if err := news.SetReadDeadline(quiet); err != nil {
				return
			}
			if _, err := v.listen(news, buf); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				return
			}
		}
		changed()
	}
}

// listen reads some news and says whether they matter.
func (v view) listen(news *os.File, buf []byte) (bool, error) {
	n, err := news.Read(buf)
	if errors.Is(err, unix.ENOBUFS) {
		return true, nil // there was more than the socket holds
	}
	if err != nil {
		return false, err
	}
	messages, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil {
		return true, nil // cut short: something happened
	}
	matters := false
	for _, m := range messages {
		matters = v.matters(m) || matters
	}
	return matters, nil
}

// view is what was last heard of the links, of those that can matter: most announcements of a link are about its state or its ports.
type view map[int]string

// face is what matters about a link.
func face(l link) string {
	return fmt.Sprint(l.name, " ", l.alias, " ", l.mac, l.mtu, l.flags&unix.IFF_UP != 0)
}

// mine says whether a link is the end of a wire, or the device of a rate: they come and go with containers.
func mine(l link) bool {
	return strings.HasPrefix(l.name, Prefix) && (l.master != 0 || l.kind == "veth" || l.kind == "ifb")
}

// matters says whether an announcement is of anything that is not the daily life of containers.
func (v view) matters(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return v.linkMatters(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		p, _, err := parseAddress(m)
		return err != nil || !(p.Addr().Is6() && p.Addr().IsLinkLocalUnicast())
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		// Those of addresses are announced with them.
		r, err := parseRoute(m)
		return err != nil || r.table != unix.RT_TABLE_LOCAL && !(r.to.Addr().Is6() && r.to.Addr().IsLinkLocalUnicast())
	case unix.RTM_NEWNETCONF:
		// A change is of one setting of a link; more are the first ones of a new link.
		settings, err := attributes(m, sizeofNetconf)
		return err != nil || len(settings) <= 2
	}
	return false
}

// sizeofNetconf is that of struct netconfmsg, a byte, padded.
const sizeofNetconf = 4

// linkMatters is matters of a link.
func (v view) linkMatters(m syscall.NetlinkMessage) bool {
	l, err := parseLink(m)
	if err != nil {
		return true
	}
	if mine(l) || len(m.Data) > 0 && m.Data[0] == unix.AF_BRIDGE {
		return false
	}
	before, known := v[l.index]
	if m.Header.Type == unix.RTM_DELLINK {
		delete(v, l.index)
		return true
	}
	v[l.index] = face(l)
	return !known || before != face(l)
}
