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
	err := in(h.ns, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		news = os.NewFile(uintptr(fd), "rtnetlink")
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
	stop := context.AfterFunc(ctx, func() { news.Close() })
	go func() {
		defer stop()
		defer news.Close()
		watch(news, changed)
	}()
	return nil
}

// watch reads until the file is closed.
func watch(news *os.File, changed func()) {
	buf := make([]byte, receiveMax)
	for {
		if err := news.SetReadDeadline(time.Time{}); err != nil {
			return
		}
		matters, err := listen(news, buf)
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
			if _, err := listen(news, buf); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				return
			}
		}
		changed()
	}
}

// listen reads some news and says whether they matter.
func listen(news *os.File, buf []byte) (bool, error) {
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
	for _, m := range messages {
		if !wireNews(m) {
			return true, nil
		}
	}
	return false, nil
}

// wireNews says whether a message is of the end of a wire, or of the device of a rate.
func wireNews(m syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
		return false
	}
	l, err := parseLink(m)
	return err == nil && strings.HasPrefix(l.name, Prefix) && (l.master != 0 || l.kind == "veth" || l.kind == "ifb")
}
