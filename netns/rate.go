package netns

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The names of the devices that hold back what containers send: this, and the index of the host's end in base 36. Indexes are given
// out once, so a device whose link is gone belongs to nobody.
const shaperPrefix = Prefix + "~"

func shaperName(index int) string {
	return shaperPrefix + strconv.FormatInt(int64(index), 36)
}

// RateLeast is the least rate in bytes a second: the kernel counts the time that a few packets take in 32 bits.
const RateLeast = 1 << 10

// rateMost is more than any link reaches, and the most for which the kernel's numbers suffice.
const rateMost = 1 << 36

// SetRate bounds a container's bytes a second on the host's end of its wire: egress is what it sends, ingress what it receives, and 0 is
// without a bound. It takes effect at once, and can be changed at any time.
//
// Errors: EINVAL (less than RateLeast), ENODEV, EOPNOTSUPP (a macvlan, which has no end on the host; a kernel without tbf, ifb, u32 or mirred).
func (h *Host) SetRate(index int, egress, ingress uint64) error {
	if index <= 0 {
		return fmt.Errorf("bound the rate of a link without an end on the host: %w", unix.EOPNOTSUPP)
	}
	for _, rate := range []*uint64{&egress, &ingress} {
		if *rate > 0 && *rate < RateLeast {
			return fmt.Errorf("bound a rate to %d bytes a second, which is less than %d: %w", *rate, RateLeast, unix.EINVAL)
		}
		if *rate > rateMost {
			*rate = 0
		}
	}
	var l link
	err := h.with(func(s *socket) (err error) { l, err = s.link("", index); return err })
	// What needs more of the kernel comes first, so that one which lacks it changes nothing.
	if err == nil {
		err = h.shape(l, egress)
	}
	if err == nil {
		err = h.bucket(index, l.mtu, ingress)
	}
	if err != nil {
		return fmt.Errorf("bound the rate of link %d: %w", index, err)
	}
	return nil
}

// bucket holds back what leaves by a link.
func (h *Host) bucket(index, mtu int, rate uint64) error {
	root := netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}
	if rate == 0 {
		// What is to be deleted is looked up by its kind: there may be none, or the kernel's own.
		err := h.traffic.QdiscDel(&netlink.Tbf{QdiscAttrs: root})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return nil
		}
		return err
	}
	burst, limit := depth(rate, mtu)
	tbf := &netlink.Tbf{QdiscAttrs: root, Rate: rate, Buffer: netlink.Xmittime(rate, burst), Limit: limit}
	return lacking("tbf", h.traffic.QdiscReplace(tbf))
}

// depth is how much may pass at once, and how much may wait. The bucket is filled when a timer fires, which a busy machine puts off, so
// it holds fifty milliseconds, and a few packets at least. What waits is a hundred milliseconds more, so that TCP sees little delay, and
// enough packets for it to work with: it hands them over by up to 64 KiB at a time.
func depth(rate uint64, mtu int) (burst, limit uint32) {
	const most = 64 << 20
	packet := uint64(mtu) + 18 // and what Ethernet puts around it
	burst = uint32(min(max(rate/20, 4*packet), most))
	limit = burst + uint32(min(max(rate/10, 32*packet), most))
	return burst, limit
}

// shape holds back what comes in by a link. The device for it is left when there is no bound any more, as removing it is slow; nothing
// leads there then.
func (h *Host) shape(l link, rate uint64) error {
	incoming := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0)}}
	if rate == 0 {
		err := h.traffic.QdiscDel(incoming)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return nil
		}
		return err
	}
	device, err := h.shaper(l)
	if err != nil {
		return err
	}
	// The bucket is there before anything is led to it.
	if err := h.bucket(device, l.mtu, rate); err != nil {
		return err
	}
	err = h.traffic.QdiscAdd(incoming)
	if errors.Is(err, unix.EEXIST) {
		err = nil
	}
	if err := lacking("ingress", err); err != nil {
		return err
	}
	lead := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.index, Parent: incoming.Handle, Priority: 1, Protocol: unix.ETH_P_ALL,
			Handle: 0x80000800},
		Actions: []netlink.Action{netlink.NewMirredAction(device)},
	}
	err = h.traffic.FilterAdd(lead)
	if errors.Is(err, unix.EEXIST) {
		return nil // it leads there
	}
	if err = lacking("u32 or mirred", err); err != nil {
		return errors.Join(err, h.traffic.QdiscDel(incoming))
	}
	return nil
}

// shaper makes the device for a link, if there is none, and returns its index.
func (h *Host) shaper(l link) (index int, err error) {
	name := shaperName(l.index)
	if index, err = indexOf(h.queries, name); err == nil {
		return index, h.do(raise(index, false)...)
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("ifb"))
	create := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)), nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(l.mtu))), info)
	if err := h.do(create); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, lacking("ifb", err)
	}
	if index, err = indexOf(h.queries, name); err != nil {
		return 0, err
	}
	return index, h.do(raise(index, false)...)
}

// unshape removes the device for a link. Errors about none are none.
func (h *Host) unshape(index int) error {
	device, err := indexOf(h.queries, shaperName(index))
	if err != nil {
		return nil
	}
	return h.with(func(s *socket) error { return s.remove(device) })
}

// Sweep removes the devices of rates whose wires are gone without Disconnect: those of containers that ended while no server ran. It
// is slow.
func (h *Host) Sweep() error {
	return h.with(func(s *socket) error {
		links, err := s.links()
		if err != nil {
			return err
		}
		there := map[int]bool{}
		for _, l := range links {
			there[l.index] = true
		}
		var errs []error
		for _, l := range links {
			of, found := strings.CutPrefix(l.name, shaperPrefix)
			index, err := strconv.ParseInt(of, 36, 32)
			if found && err == nil && l.kind == "ifb" && !there[int(index)] {
				errs = append(errs, s.remove(l.index))
			}
		}
		return errors.Join(errs...)
	})
}

// lacking turns what a kernel says that does not have something into EOPNOTSUPP.
func lacking(what string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("this kernel has no %s: %w", what, unix.EOPNOTSUPP)
	}
	return err
}
