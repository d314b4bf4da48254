//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// mark is in everything that escape sends, so that who looks for it knows it.
const mark = "ctrfs-escape"

// escape tries every way there is for a packet: sockets of all kinds, with the routes that there are and with a neighbour's hardware
// address in place of a route, from its own address and from others.
func escape(to []string) {
	links, _ := net.Interfaces()
	var all sync.WaitGroup
	defer all.Wait()
	for _, text := range to {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			fmt.Println(err)
			continue
		}
		all.Go(func() { sockets(addr) })
		raw(addr)
		for _, l := range links {
			if l.Flags&net.FlagLoopback == 0 {
				frames(l, addr)
			}
		}
	}
}

// sockets sends by those that every program may have.
func sockets(addr netip.Addr) {
	for _, network := range []string{"udp", "tcp"} {
		for _, port := range []uint16{53, 80, 443, 9999} {
			c, err := net.DialTimeout(network, netip.AddrPortFrom(addr, port).String(), 50*time.Millisecond)
			if err != nil {
				continue
			}
			c.Write([]byte(mark))
			c.Close()
		}
	}
}

// raw sends by raw sockets: ICMP, and a protocol that nobody knows.
func raw(to netip.Addr) {
	for _, protocol := range []string{"icmp", "ipv6-icmp", "253"} {
		network := "ip4:" + protocol
		if to.Is6() {
			network = "ip6:" + protocol
		}
		c, err := net.Dial(network, to.String())
		if err != nil {
			continue
		}
		c.Write(append([]byte{echo4, 0, 0, 0, 0, 0, 0, 0}, mark...))
		c.Write(append([]byte{echo6, 0, 0, 0, 0, 0, 0, 0}, mark...))
		c.Close()
	}
}

// frames writes frames with a packet for an address, to everybody and to the neighbours that are known: the gateway among them.
func frames(l net.Interface, to netip.Addr) {
	proto := uint16(0x0800)
	if to.Is6() {
		proto = 0x86dd
	}
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer syscall.Close(fd)
	addrs, _ := l.Addrs()
	for _, mac := range append(neighbours(), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) {
		for _, a := range addrs {
			from, err := netip.ParsePrefix(a.String())
			if err != nil || from.Addr().Is4() != to.Is4() {
				continue
			}
			at := syscall.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: l.Index, Halen: 6}
			copy(at.Addr[:], mac)
			for _, source := range []netip.Addr{from.Addr(), from.Masked().Addr().Next(), to.Next()} { // its own, its gateway's, a stranger's
				syscall.Sendto(fd, packet(source, to), 0, &at)
			}
		}
	}
}

// packet is a datagram to port 9999.
func packet(from, to netip.Addr) []byte {
	load := append([]byte{0x27, 0x0f, 0x27, 0x0f, 0, byte(8 + len(mark)), 0, 0}, mark...)
	if to.Is6() {
		head := []byte{0x60, 0, 0, 0, 0, byte(len(load)), 17, 64}
		return append(append(append(head, from.AsSlice()...), to.AsSlice()...), load...)
	}
	head := []byte{0x45, 0, 0, byte(20 + len(load)), 0, 1, 0, 0, 64, 17, 0, 0}
	head = append(append(head, from.AsSlice()...), to.AsSlice()...)
	sum := checksum(head)
	head[10], head[11] = byte(sum>>8), byte(sum)
	return append(head, load...)
}

// neighbours are the hardware addresses that the kernel knows, proc_pid_net(5), arp.
func neighbours() (all [][]byte) {
	text, _ := os.ReadFile("/proc/net/arp")
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		if mac, err := net.ParseMAC(fields[3]); err == nil {
			all = append(all, mac)
		}
	}
	return all
}
