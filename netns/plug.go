package netns

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Plug makes the host's end of a wire a port of a bridge again, as [Host.Connect] made it. Somebody who deletes a bridge leaves its
// wires as they are, without one.
//
// Error: ENODEV, for the bridge or the wire.
func (h *Host) Plug(bridge string, index int) error {
	master, err := indexOf(h.queries, bridge)
	if err != nil {
		return fmt.Errorf("plug link %d: bridge: %w", index, err)
	}
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	join := request(unix.RTM_NEWLINK, 0, header, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
	if err := h.do(join, Wire{}.port(index)); err != nil {
		return fmt.Errorf("plug link %d: %w", index, err)
	}
	return nil
}
