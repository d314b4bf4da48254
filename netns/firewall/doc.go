// Package firewall keeps one table of nftables, of family inet, that does for the container networks of one ctrfs what bridges alone do
// not: NAT, published ports, and who may not talk to whom. It never changes a table of anybody else.
//
// # Model
//
// The chains and rules are always the same; what is wanted is in sets and maps. [Table.Apply] compares what is wanted with what was
// applied last and sends the elements that differ, as one transaction: a port more is one element of a map, whatever else there is.
// The first time, and over a table that somebody else has changed, it makes the whole table anew, likewise as one transaction.
// [Table.Watch] listens to what others do to the table and undoes it. The server does all that through netlink; no program is run.
//
// # What passes
//
//   - Out of a network to elsewhere: all, with the address of the link it leaves by where NAT is on. What has a source address that is
//     not of its network's subnets is dropped before anything else sees it, and so is what conntrack takes for no connection, as it
//     would leave without NAT.
//   - Into a network: what belongs to a connection from there, and what was sent to a published port, with the source address that it
//     came with. A container's own address is reached by nobody but its network and this machine, even where the address is routed.
//   - From a network to another: only to a published port, by an address of this machine; with NAT, it is seen as coming from the
//     gateway. Another network's gateway address is this machine, but is refused too: what a network is made of is not to be seen
//     from the next. All other addresses of this machine can be reached, as from anywhere; what listens there decides.
//   - From and to an internal network: nothing but to its own gateway addresses (v6: to the bridge's link-local one, too). It
//     publishes nothing and reaches no published port, but this machine reaches its containers by their addresses.
//   - Within a network: everything. Where br_netfilter has frames within a bridge go through these chains, they are let through.
//   - To 127.0.0.0/8: what comes from a bridge is dropped, since route_localnet is on there and the kernel would let it in; and
//     nothing that comes from elsewhere is sent to a port that is published on 127.x, on whatever link.
//   - Between others: not our business, unless links are guarded, because this machine forwards only for our sake. Then all of it is
//     dropped but frames within other bridges under br_netfilter; what goes from one of those to another, neither guarded, cannot
//     be told from them. Who turns on forwarding for a purpose of their own has to be noticed by the caller, who then guards no more.
//
// # What is published
//
// A port on 0.0.0.0 or [::] is published on every unicast address of this machine, whatever addresses come and go, except [::1]: the
// kernel does not let ::1 leave lo, so no NAT can. On 127.x, and from there, the container sees its gateway as the client, as does a
// container that reaches itself, or its neighbour, by a published port. Broadcasts and multicasts are not published.
//
// What the caller has to see to: forwarding is on for the bridges and the links to elsewhere; a bridge has route_localnet on for
// 127.x; the ports of a bridge are in hairpin mode for a container to reach itself by a published port under br_netfilter.
//
// # Beside others
//
// Every base chain at a hook sees a packet, in the order of priorities; one that drops it ends that, one that accepts it does not. So to
// accept here is not enough where others drop what they do not know: [Obstacles] names those, and only their owner can let ours
// pass (iptables -I DOCKER-USER -i blue -j ACCEPT; firewall-cmd --zone=trusted --add-interface=blue).
//
// NAT is the other way round: the first chain that says where to wins. Ours come after those of iptables (-100 and 100), Docker's
// among them, and of firewalld (-90 and 110): -85 and 115. So a port that others publish stays theirs, and an administrator who wants
// containers to leave with another address than that of the link says so in iptables as ever. What is spoofed is dropped at the
// priority raw (-300), before conntrack (-200) makes an entry of it. The filters are where those of all others are, at 0: whoever
// drops first, it is dropped.
//
// # Failure
//
// A transaction that the kernel refuses changes nothing. Established flows go through when a table is made anew, or deleted; no
// connection is cut when a port is published no more. UDP flows that do not go where their port says now are forgotten, which
// takes the kernel some 20 ms; those of ports that were unpublished while no server ran stay until they are quiet for two minutes.
// Between somebody's `nft flush ruleset` and the repair, about 60 ms, nothing is published, NATed or isolated, and nobody is guarded
// against.
//
// It needs Linux 5.7: the link that a packet came by, in postrouting; and ranges in concatenations (5.6).
//
// # Example
//
//	table := firewall.Open("ctrfs-1a2b3c4d")
//	err := table.Apply(firewall.Wanted{Networks: networks, Ports: ports})
//
// A network blue, an internal one db, port 8080 published on all addresses and 53 on 127.0.0.1, and eth0 guarded:
//
//	table inet ctrfs-test {
//		set bridges {
//			type ifname
//			elements = { "db",
//				     "blue" }
//		}
//
//		set internal {
//			type ifname
//			elements = { "db" }
//		}
//
//		set nat {
//			type ifname
//			elements = { "blue" }
//		}
//
//		set same {
//			type ifname . ifname
//			elements = { "db" . "db",
//				     "blue" . "blue" }
//		}
//
//		set sources4 {
//			type ifname . ipv4_addr
//			flags interval
//			elements = { "blue" . 10.1.0.0/24,
//				     "db" . 10.2.0.0/24 }
//		}
//
//		set sources6 {
//			type ifname . ipv6_addr
//			flags interval
//			elements = { "blue" . fd01::/64 }
//		}
//
//		set gateways4 {
//			type ifname . ipv4_addr
//			elements = { "blue" . 10.1.0.1,
//				     "db" . 10.2.0.1 }
//		}
//
//		set gateways6 {
//			type ifname . ipv6_addr
//			elements = { "blue" . fd01::1 }
//		}
//
//		set addresses4 {
//			type ipv4_addr
//			elements = { 10.1.0.1, 10.2.0.1 }
//		}
//
//		set addresses6 {
//			type ipv6_addr
//			elements = { fd01::1 }
//		}
//
//		set guarded {
//			type nf_proto . ifname
//			elements = { ipv4 . "eth0",
//				     ipv6 . "eth0" }
//		}
//
//		set uplinks {
//			type ifname . ifname
//			elements = { "eth0" . "eth0" }
//		}
//
//		set guard {
//			type nf_proto
//			elements = { ipv4, ipv6 }
//		}
//
//		map ports4 {
//			type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
//			elements = { 127.0.0.1 . udp . 53 : 10.1.0.3 . 53 }
//		}
//
//		map ports6 {
//			type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service
//		}
//
//		map any4 {
//			type inet_proto . inet_service : ipv4_addr . inet_service
//			elements = { tcp . 8080 : 10.1.0.2 . 80 }
//		}
//
//		map any6 {
//			type inet_proto . inet_service : ipv6_addr . inet_service
//			elements = { tcp . 8080 : fd01::2 . 80 }
//		}
//
//		chain spoof {
//			type filter hook prerouting priority raw; policy accept;
//			iifname != @bridges accept comment "not from a bridge of ours"
//			ip daddr 127.0.0.0/8 drop comment "route_localnet is on: this machine's own loopback"
//			iifname . ip saddr @sources4 accept
//			iifname . ip6 saddr @sources6 accept
//			ip6 saddr fe80::/10 accept comment "neighbours"
//			ip6 saddr :: meta l4proto ipv6-icmp accept comment "is my address taken?"
//			drop comment "not an address of that network"
//		}
//
//		chain published {
//			dnat ip to ip daddr . meta l4proto . th dport map @ports4
//			meta nfproto ipv4 dnat ip to meta l4proto . th dport map @any4
//			dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6
//			meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @any6
//		}
//
//		chain prerouting {
//			type nat hook prerouting priority -85; policy accept;
//			iifname @internal return comment "reaches nothing but its bridge"
//			ip daddr 127.0.0.0/8 return comment "127.x is published on this machine only, see output"
//			fib daddr type local jump published
//		}
//
//		chain output {
//			type nat hook output priority -85; policy accept;
//			ip6 daddr ::1 return comment "cannot leave lo: refused at once is better than lost"
//			fib daddr type local jump published
//		}
//
//		chain input {
//			type filter hook input priority filter; policy accept;
//			iifname != @bridges accept comment "not from a bridge of ours"
//			icmpv6 type 135-136 accept comment "who has this address?"
//			ip6 daddr fe80::/10 accept comment "an address of the bridge itself"
//			iifname . ip daddr @gateways4 accept
//			iifname . ip6 daddr @gateways6 accept
//			iifname @internal drop comment "reaches nothing but its gateway"
//			ip daddr @addresses4 drop comment "another network's gateway"
//			ip6 daddr @addresses6 drop comment "another network's gateway"
//		}
//
//		chain forward {
//			type filter hook forward priority filter; policy accept;
//			iifname . oifname @same accept comment "within a network"
//			iifname @internal drop comment "reaches nothing but its bridge"
//			oifname @internal drop comment "reached by nothing but its bridge"
//			iifname @bridges ct state invalid drop comment "would leave with its own address"
//			oifname @bridges ct state established,related accept
//			oifname @bridges ct status dnat accept comment "published"
//			oifname @bridges drop comment "another network, or not published"
//			iifname @bridges accept comment "to elsewhere"
//			iifname . oifname @uplinks meta iifkind "bridge" accept comment "a bridge's own frames"
//			meta nfproto . iifname @guarded drop comment "forwards for us alone"
//			meta nfproto . oifname @guarded drop comment "forwards for us alone"
//			meta iifkind "bridge" meta oifkind "bridge" accept comment "another bridge's own frames"
//			meta nfproto @guard drop comment "this machine forwards for us alone"
//		}
//
//		chain postrouting {
//			type nat hook postrouting priority 115; policy accept;
//			ip saddr 127.0.0.0/8 oifname @bridges masquerade comment "could not be answered"
//			oifname . ip saddr @sources4 ct status dnat masquerade comment "back to where it came from"
//			oifname . ip6 saddr @sources6 ct status dnat masquerade comment "back to where it came from"
//			iifname . oifname @same return comment "within a network"
//			iifname @nat masquerade
//		}
//	}
package firewall
