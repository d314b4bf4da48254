package local

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/netns/firewall"
)

// published is a port of this machine's that leads to a container. The socket is bound to it and never listens: it keeps others from
// taking the port, and others keep ctrfs from it. What arrives goes by the firewall's table, not through the socket.
type published struct {
	port   engine.Port
	socket *os.File
	rule   firewall.Port
}

// publish opens the ports of a configuration that are not open yet, closes those that are not in it, and tells the firewall. What is
// refused changes nothing.
func (s *networks) publish(id string, config *engine.Config, wires []wire) error {
	holder, err := s.tryToPublish(id, config, wires)
	if refused, ok := errors.AsType[*engine.Error](err); ok && holder != "" { // named now that fire is not held
		refused.Why = "that port of this machine leads to " + s.e.pathOf(holder)
	}
	return err
}

// tryToPublish is publish. When another container has one of the ports, holder is its id.
func (s *networks) tryToPublish(id string, config *engine.Config, wires []wire) (holder string, err error) {
	s.fire.Lock()
	defer s.fire.Unlock()
	if len(s.published[id]) == 0 && len(config.Ports()) == 0 {
		return "", nil
	}
	s.bury()
	old := s.published[id]
	var next, fresh []published
	defer func() {
		if err != nil {
			closePorts(fresh)
		}
	}()
	for _, p := range config.Ports() {
		rule, err := rule(p, wires)
		if err != nil {
			return "", err
		}
		if i := slices.IndexFunc(old, func(o published) bool { return o.port == p && o.rule == rule }); i >= 0 {
			next = append(next, old[i])
			continue
		}
		socket, err := reserve(p)
		if err != nil {
			return s.holder(p, err), portError(p, err)
		}
		x := published{p, socket, rule}
		next, fresh = append(next, x), append(fresh, x)
	}
	if s.published[id] = next; len(next) == 0 {
		delete(s.published, id)
	}
	if err := s.reapply(); err != nil {
		if s.published[id] = old; len(old) == 0 {
			delete(s.published, id)
		}
		return "", &engine.Error{Op: "write", File: "net.ports", Errno: engine.Errno(err), Err: err, Cure: "see nftables in the file host"}
	}
	closePorts(slices.DeleteFunc(slices.Clone(old), func(o published) bool { return slices.Contains(next, o) }))
	return "", nil
}

// holder is the container that has a port, if that is why it cannot be had. s.fire is held.
func (s *networks) holder(p engine.Port, err error) string {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ""
	}
	for id, all := range s.published {
		for _, o := range all {
			if o.port.HostPort == p.HostPort && o.port.Proto == p.Proto && o.port.Host.Is4() == p.Host.Is4() {
				return id
			}
		}
	}
	return ""
}

// bury closes the ports of containers that have stopped, which is done behind their backs otherwise. s.fire is held, and the table is to
// be applied next.
func (s *networks) bury() {
	s.ended.Range(func(id, _ any) bool {
		s.ended.Delete(id)
		if all := s.published[id.(string)]; len(all) > 0 {
			closePorts(all)
			delete(s.published, id.(string))
			s.stale = true
		}
		return true
	})
}

func closePorts(all []published) {
	for _, p := range all {
		p.socket.Close()
	}
}

// rule finds where a port leads: to the first network that can be reached from outside and has an address of that family.
func rule(p engine.Port, wires []wire) (firewall.Port, error) {
	for _, w := range wires {
		c := w.n.View().Config
		if c.Internal || c.Driver != engine.DriverBridge {
			continue
		}
		for _, a := range w.addresses {
			if a.Is4() == p.Host.Is4() {
				return firewall.Port{Proto: p.Proto, Host: p.Host, Port: p.HostPort, To: netip.AddrPortFrom(a, p.Port), Link: w.n.View().Link}, nil
			}
		}
	}
	return firewall.Port{}, &engine.Error{Op: "publish", File: "net.ports", Value: p.String(), Errno: syscall.EINVAL,
		Why: "the container is in no network of that family that can be reached from outside", Cure: "write one with driver bridge into net, such as bridge; see subnet and internal of it"}
}

// reserve binds a socket to a port of this machine's. Without SO_REUSEADDR: two reservations must not go together.
func reserve(p engine.Port) (*os.File, error) {
	if p.Host.Is6() && p.Host.IsLoopback() {
		return nil, syscall.EOPNOTSUPP
	}
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if p.Proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	var at unix.Sockaddr
	if p.Host.Is6() {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Port: int(p.HostPort), Addr: p.Host.As16()}
	} else {
		at = &unix.SockaddrInet4{Port: int(p.HostPort), Addr: p.Host.As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "port "+p.String())
	if p.Host.Is6() {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, at)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// portError says why a port cannot be had, and what to do.
func portError(p engine.Port, err error) error {
	out := &engine.Error{Op: "publish", File: "net.ports", Value: p.String(), Errno: engine.Errno(err), Err: err}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		out.Err, out.Why, out.Cure = nil, "that port of this machine is taken by a program: see ss -tulpn", "choose another port, or stop what has it"
		if p.HostPort == 53 && p.Host.IsUnspecified() {
			out.Why, out.Cure = "at port 53 of their gateways networks answer for names", "publish it on one address of this machine's, not on all"
		}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		out.Err, out.Why, out.Cure = nil, "this machine has no such address", "write one that ip address shows, or 0.0.0.0 or [::] for all"
	case errors.Is(err, syscall.EOPNOTSUPP):
		out.Err, out.Why = nil, "the kernel sends nothing from ::1 to another link"
		out.Cure = "publish on 127.0.0.1, or on an address of an interface of this machine's"
	}
	return out
}

// unpublish closes the ports of a container that has stopped.
func (s *networks) unpublish(id string) {
	s.fire.Lock()
	defer s.fire.Unlock()
	s.ended.Delete(id)
	old := s.published[id]
	if len(old) == 0 && !s.stale {
		return
	}
	delete(s.published, id)
	if err := s.reapply(); err != nil {
		s.e.log.Error("a port that leads nowhere stays in the firewall", "container", id, "err", err)
	}
	closePorts(old)
}

// refire tells the firewall what networks there are, and has this machine forward for them.
func (s *networks) refire() error {
	s.fire.Lock()
	defer s.fire.Unlock()
	return s.forward()
}

// reapply tells the firewall what ports there are. s.fire is held.
func (s *networks) reapply() error {
	w := s.wanted()
	if len(w.Networks) == 0 {
		return nil // nothing leads to a macvlan
	}
	w.Guarded4, w.Guarded6 = s.guarded4, s.guarded6
	err := s.table.Apply(w)
	s.stale = s.stale && err != nil
	return err
}

// wanted is what the table has to do, but for guarding. s.fire is held.
func (s *networks) wanted() (w firewall.Wanted) {
	for _, n := range s.list() {
		if r, ok := n.rule(); ok {
			w.Networks = append(w.Networks, r)
		}
	}
	slices.SortFunc(w.Networks, func(a, b firewall.Network) int { return strings.Compare(a.Link, b.Link) })
	for _, all := range s.published {
		for _, p := range all {
			w.Ports = append(w.Ports, p.rule)
		}
	}
	return w
}

// leave takes the table away and gives forwarding back, when there are no networks. s.fire is held.
func (s *networks) leave() error {
	if !s.applied {
		return nil
	}
	s.applied, s.stale = false, false
	return errors.Join(s.table.Remove(), s.unforward())
}
