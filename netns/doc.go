// Package netns is the network of containers as the kernel has it: namespaces, bridges, the wires between them, and what of
// the host has to be different so that packets pass. It knows nothing of containers' names, of settings, of who may do what.
//
// # Model
//
// [New] makes a namespace. A namespace is owned by its descriptor: it disappears with the last one, or with the last process
// in it. It is used once, because a container may leave state behind in it: sockets in TIME_WAIT, counters, rules. The namespace
// of a container with a user namespace is made together with that, see launch.Namespaces; everything here works on both.
//
// A [Host] is the namespace in which the server was started. It is opened once, and stays that one whichever thread asks.
//
// A [Bridge] is a network. [Host.Apply] makes the kernel's bridge what the Bridge says and can be called as often as one likes: it
// changes what differs, and nothing else. The link's alias says whose it is; one with another alias is never touched.
//
// A [Wire] is a link of a container: a veth of which one end is the container's and the other a port of a bridge, or a macvlan of a
// link of the host. [Host.Connect] makes one with addresses and routes, or nothing. [Host.Readdress] gives it others, which is many
// times cheaper: that is how wires are kept ready. A wire ends with its namespace, so a crash leaves none behind.
//
//	container                     host
//	┌───────────────────┐         ┌────────────────────────────────────────────┐
//	│ eth0 10.88.0.2/24 ├── veth ─┤ ctrfs…  port, hairpin                      │
//	│      default via ─┼─┐       │   └── ctrfs0  bridge 10.88.0.1/24          │
//	└───────────────────┘ └───────┼────────►┘ conf/ctrfs0/forwarding=1         │
//	                              │   eth0    uplink, conf/eth0/forwarding=1 ──┼──► world
//	                              └────────────────────────────────────────────┘
//
// # Addresses
//
// Nothing here waits for duplicate address detection: addresses are given out by whoever calls, and are flagged so. A MAC address
// follows from the first address, so a restarted container has the one that its neighbours remember, and an address that goes to
// another container takes its MAC along: no neighbour has to forget anything. A bridge has a fixed one, too, where the kernel would
// take that of a port. Router advertisements are not accepted, neither in containers nor on bridges: any container could send them.
// A link without IPv6 addresses has no link-local one either.
//
// A bridge without ports has no carrier, and its addresses can be used on the host all the same: a server can be bound to them.
//
// # Forwarding
//
// ip_forward is somebody else's to switch on: it makes a router of the machine, for every link. Linux looks at the flag of the link
// that a packet comes in by, so [Host.Apply] sets that of the bridge, and [Host.Uplinks] those of the links that answers come in by. A
// packet from there could then be sent on to any other link, which nobody asked for: the links that Uplinks names are to be guarded by
// the firewall, which has to know them before: [Host.Intended]. For IPv6 there is such a flag since Linux 6.17, force_forwarding; before, IPv6 leaves a bridge only if the host is a
// router for IPv6 already, see [Host.Forwarding]. [Host.Restore] puts back what was there before.
//
// Bridges have route_localnet, without which a port published on 127.0.0.1 does not work. With it a container could send packets to
// the host's 127.0.0.1, so the firewall has to drop those from bridges, and has to be there before the bridge is.
//
// # Rates
//
// [Host.SetRate] shapes on the host's end, where the container cannot undo it. What a container receives leaves the host's end, and waits
// there in a token bucket. What it sends comes in by it, where nothing can wait: it is led through an ifb device, and waits in that one's
// bucket. Dropping it instead (matchall and police) needs no device, but takes the bursts of TCP for too much, and not every kernel that
// can do the one can do the other. The device is the one thing that outlives a wire: [Host.Disconnect] removes it, and [Host.Sweep]
// those that a crash left.
//
// # Threads
//
// A namespace is a property of a thread. What has to be done in another one (a netlink socket, sysctls) is done by [in], on a thread
// that goes there and back; one that cannot come back ends. Sockets remain in the namespace in which they were made.
//
// # What is slow
//
// Whatever changes a link takes the kernel's one lock for networks, RTNL. Removing a link holds it for tens of milliseconds, and so
// does the end of a namespace with a link in it: neither belongs on the way of somebody who waits. Requests go to the kernel in
// batches, and what can be asked without that lock is.
//
// Two things the kernel finishes in the background, and takes the lock for it: a veth of which the other end came up, and IPv6 addresses.
// Packets before that are lost, so Apply, Connect and Readdress wait for it, for at most ten milliseconds; see [Wire.NoWait].
//
// # Example
//
//	host, err := netns.OpenHost()
//	_, err = host.Apply(netns.Bridge{Link: "ctrfs0", Alias: "ctrfs main blue", Gateways: gateways}) // 10.88.0.1/24
//	end, err := host.Connect(ns, netns.Wire{Name: "eth0", Bridge: "ctrfs0", Host: "ctrfsv1",
//		Addresses: addresses, Gateways: []netip.Addr{gateway}}) // 10.88.0.2/24, 10.88.0.1
//	err = host.SetRate(end, 10<<20, 0)
//	err = host.Disconnect(end) // later, in the background
//
// Errors keep the errno of the kernel, and its sentence if it gave one.
package netns
