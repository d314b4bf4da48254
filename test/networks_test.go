package test

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// on is an address and a port.
func on(address, port string) string { return net.JoinHostPort(address, port) }

// TestNetworks is what containers in networks can send to whom, on one mount.
func TestNetworks(t *testing.T) {
	w := MountWorld(t)
	w.Background(w.Outside, "serve outside")
	// Whom this machine asks for names is not reached from here, and who would be asked is not told of names without a dot.
	w.Up("web", "bridge", "net.dns", Outside4)
	w.Up("app", "bridge", "net.dns", Outside4)
	for _, c := range []struct {
		name string
		test func(*World)
	}{
		{"reach", testReach},
		{"sizes", testSizes},
		{"ports", testPorts},
		{"live ports", testLivePorts},
		{"apart", testApart},
		{"internal", testInternal},
		{"two networks", testTwo},
		{"wanted addresses", testWanted},
		{"macvlan", testMacvlan},
		{"stacks", testStacks},
		{"rates", testRates},
		{"nat", testNAT},
		{"leases", testLeases},
		{"etc", testEtc},
		{"nested", testNested},
		{"crowd", testCrowd},
		{"flood", testFlood},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(w.during(t)) })
	}
	w.Down("web", "app")
}

// Containers of a network reach each other, the gateway, and what is outside, where they have this machine's address.
func testReach(w *World) {
	web, app := w.Link("web"), w.Link("app")
	for _, f := range []struct{ web, app, gateway, host, outside string }{
		{web.V4, app.V4, web.Via[0], Host4, Outside4},
		{web.V6, app.V6, web.Via[1], Host6, Outside6},
	} {
		w.Answers("app",
			"tcp "+on(f.web, "80"), "web "+f.app, "udp "+on(f.web, "80")+" 1", "web "+f.app, "ping "+f.web+" 56", "answered",
			"ping "+f.gateway+" 56", "answered", "ping "+f.host+" 56", "answered", "tcp "+on(f.gateway, "81"), "error: connection refused",
			"tcp "+on(f.outside, "80"), "outside "+f.host, "udp "+on(f.outside, "80")+" 1", "outside "+f.host, "ping "+f.outside+" 56", "answered",
			"tcp "+on(f.app, "80"), "app "+f.app)
		w.Answers(w.Host, "tcp "+on(f.web, "80"), "web "+f.gateway, "ping "+f.web+" 56", "answered")
	}
	// Who knows where a network is does not reach it from outside: what is not published is not there.
	w.Outside.IP(w.T, "route add "+web.V4+" via "+Host4+"\nroute add "+web.V6+" via "+Host6)
	w.Answers(w.Outside, "tcp "+on(web.V4, "80"), "error: timeout", "tcp "+on(web.V6, "80"), "error: timeout", "udp "+on(web.V4, "80")+" 1", "error: timeout",
		"ping "+web.V4+" 1", "error: timeout", "ping "+web.V6+" 1", "error: timeout")
	w.Outside.IP(w.T, "route del "+web.V4+" via "+Host4+"\nroute del "+web.V6+" via "+Host6)
}

// Datagrams of a packet's size pass in one, larger ones in fragments; in a network with larger packets, those pass whole.
func testSizes(w *World) {
	web, link := w.Link("web"), []string{}
	for _, f := range []struct{ web, outside string }{{web.V4, Outside4}, {web.V6, Outside6}} {
		for _, size := range []string{"1452", "1472", "1473", "8000", "60000"} {
			w.Answers("app", "udp "+on(f.web, "80")+" "+size, "~ web .*", "udp "+on(f.outside, "80")+" "+size, "~ outside .*", "ping "+f.web+" "+size, "answered",
				"ping "+f.outside+" "+size, "answered")
		}
	}
	w.Sh("mkdir networks/large; echo 9000 > networks/large/mtu")
	w.Up("one", "large")
	w.Up("two", "large")
	one := w.Link("one")
	const fragments = `awk "/^Ip: [0-9]/ { print \$17 }" /proc/net/snmp` // FragOKs
	before := w.Say("two", "busybox "+fragments)
	w.Answers("two", "udp "+on(one.V4, "80")+" 8972", "~ one .*", "ping "+one.V4+" 8972", "answered", "udp "+on(one.V6, "80")+" 8952", "~ one .*")
	if after := w.Say("two", "busybox "+fragments); after != before {
		w.T.Errorf("packets of 9000 bytes were sent in fragments: %s, now %s", before, after)
	}
	w.Background(w.Outside, "sink 81")
	w.Answers("two", "push "+on(Outside4, "81")+" 1000000", "~ [0-9]+", "pull "+on(Outside6, "81")+" 1000000", "~ [0-9]+")
	for _, c := range []string{"one", "app"} {
		link = append(link, w.Say(c, "cat /sys/class/net/eth0/mtu"))
	}
	if got := strings.Join(link, " "); got != "9000 1500" {
		w.T.Errorf("the links have an mtu of %s", got)
	}
	w.Down("one", "two")
	w.Sh("rmdir networks/large")
}

// A published port is reached from outside, from this machine and from containers, and where it is possible the server sees who it is.
func testPorts(w *World) {
	w.Up("shop", "bridge", "net.ports", "0.0.0.0:8080:80\n[::]:8080:80\n0.0.0.0:8080:80/udp\n[::]:8080:80/udp\n8081:80\n"+Host4+":8082:80\n["+Host6+"]:8082:80")
	w.Sh("mkdir networks/red")
	w.Up("far", "red")
	shop, app := w.Link("shop"), w.Link("app")
	for _, f := range []struct{ host, outside, gateway, app string }{
		{Host4, Outside4, shop.Via[0], app.V4}, {Host6, Outside6, shop.Via[1], app.V6},
	} {
		w.Answers(w.Outside, "tcp "+on(f.host, "8080"), "shop "+f.outside, "udp "+on(f.host, "8080")+" 1", "shop "+f.outside, "udp "+on(f.host, "8080")+" 20000", "shop "+f.outside,
			"tcp "+on(f.host, "8082"), "shop "+f.outside, "tcp "+on(f.host, "8081"), "error: connection refused", "udp "+on(f.host, "8081")+" 1", "error: connection refused")
		w.Answers(w.Host, "tcp "+on(f.host, "8080"), "~ shop .*", "udp "+on(f.host, "8080")+" 1", "~ shop .*", "tcp "+on(f.host, "8082"), "~ shop .*", "tcp "+on(f.gateway, "8080"), "~ shop .*")
		w.Answers("app", "tcp "+on(f.host, "8080"), "shop "+f.gateway, "udp "+on(f.host, "8080")+" 1", "shop "+f.gateway, "tcp "+on(f.gateway, "8080"), "shop "+f.gateway,
			"tcp "+on(f.host, "8081"), "error: connection refused")
		w.Answers("shop", "tcp "+on(f.host, "8080"), "shop "+f.gateway, "udp "+on(f.host, "8080")+" 1", "shop "+f.gateway, "tcp "+on(f.gateway, "8080"), "shop "+f.gateway)
		// What leaves a network has this machine's address, also where it goes to another one.
		w.Answers("far", "tcp "+on(f.host, "8080"), "shop "+f.gateway, "udp "+on(f.host, "8080")+" 1", "shop "+f.gateway, "tcp "+on(f.host, "8082"), "shop "+f.gateway)
	}
	w.Answers(w.Host, "tcp 127.0.0.1:8080", "~ shop .*", "udp 127.0.0.1:8080 1", "~ shop .*", "tcp 127.0.0.1:8081", "~ shop .*", "tcp 127.0.0.2:8080", "~ shop .*",
		"tcp [::1]:8080", "error: connection refused", "tcp 127.0.0.2:8081", "error: connection refused", "udp 127.0.0.1:8081 1", "error: connection refused")
	w.Down("shop", "far")
	// Who has seen it stop can have its ports at once.
	w.Run("next", "bridge", "sleep 1000")
	w.Run("brief", "bridge", "true", "net.ports", "0.0.0.0:8080:80")
	for range 10 {
		w.Read("brief/wait")
		w.Write("next/net.ports", "0.0.0.0:8080:80")
		w.Write("next/net.ports", "")
		w.Write("brief/start", "1")
	}
	w.Down("brief", "next")
	Eventually(w.T, "nobody has the port", patience, func() bool { return w.Ask(w.Outside, "never tcp "+on(Host4, "8080"))[0] == "error: connection refused" })
	w.Answers(w.Outside, "udp "+on(Host6, "8080")+" 1", "error: connection refused")
	w.Answers(w.Host, "tcp 127.0.0.1:8081", "error: connection refused")
	w.Sh("rmdir networks/red")
}

// Ports come and go while the container runs. Nobody else can have them meanwhile, and what others have, it cannot.
func testLivePorts(w *World) {
	w.Up("shop", "bridge")
	w.Answers(w.Outside, "tcp "+on(Host4, "8080"), "error: connection refused")
	w.Write("shop/net.ports", "0.0.0.0:8080:80")
	w.Answers(w.Outside, "tcp "+on(Host4, "8080"), "shop "+Outside4)
	w.Sh("echo '[::]:8080:80' >> shop/net.ports")
	w.Answers(w.Outside, "tcp "+on(Host4, "8080"), "shop "+Outside4, "tcp "+on(Host6, "8080"), "shop "+Outside6)
	w.Write("shop/net.ports", "[::]:8080:80\n0.0.0.0:8090:80")
	w.Answers(w.Outside, "tcp "+on(Host4, "8080"), "error: connection refused", "tcp "+on(Host4, "8090"), "shop "+Outside4, "tcp "+on(Host6, "8080"), "shop "+Outside6)
	w.refused("echo 127.0.0.1:8090:80 > app/net.ports", "Address already in use")
	if got := w.Read("app/error"); !strings.Contains(got, "leads to shop") || w.Read("app/net.ports") != "" {
		w.T.Errorf("a port that shop has: %s; net.ports %q", got, w.Read("app/net.ports"))
	}
	stop := w.Background(w.Host, "serve program 8100")
	w.refused("echo 0.0.0.0:8100:80 > shop/net.ports", "Address already in use")
	if got := w.Read("shop/error"); !strings.Contains(got, "taken by a program") {
		w.T.Errorf("a port that a program has: %s", got)
	}
	w.Answers(w.Outside, "tcp "+on(Host4, "8090"), "shop "+Outside4, "tcp "+on(Host4, "8100"), "program "+Outside4)
	w.Answers(w.Host, "take 8090", "error: address already in use")
	stop()
	w.Sh("mkdir late; echo $ROOT > late/rootfs; echo 'sleep 100' > late/cmd; echo bridge > late/net; echo 8090:80 > late/net.ports")
	w.refused("echo 1 > late/start", "Address already in use")
	if got := w.Read("late/error"); !strings.Contains(got, "leads to shop") || w.Read("late/state") != "created" {
		w.T.Errorf("a start with a port that shop has: %s; it is %s", got, w.Read("late/state"))
	}
	w.Write("shop/net.ports", "")
	w.Write("late/start", "1")
	w.Answers(w.Outside, "tcp "+on(Host4, "8090"), "error: connection refused", "tcp "+on(Host6, "8080"), "error: connection refused")
	w.Down("late", "shop")
}

// Networks do not reach each other, nor the gateways of others, nor what this machine has on its loopback.
func testApart(w *World) {
	w.Sh("mkdir networks/red")
	w.Up("far", "red", "net.dns", Outside4)
	web, far := w.Link("web"), w.Link("far")
	w.Background(w.Host, "serve here 8200")
	for _, f := range []struct {
		from, name string
		to         Link
	}{{"far", "web", web}, {"web", "far", far}} {
		var pairs []string
		for i, address := range []string{f.to.V4, f.to.V6} {
			pairs = append(pairs, "tcp "+on(address, "80"), "error: timeout", "udp "+on(address, "80")+" 1", "error: timeout", "ping "+address+" 1", "error: timeout",
				"tcp "+on(f.to.Via[i], "8200"), "error: timeout", "ping "+f.to.Via[i]+" 1", "error: timeout")
		}
		w.Answers(f.from, append(pairs, "name "+f.name, "none")...)
	}
	// What this machine serves on all addresses is for its own networks as for anybody.
	w.Answers("far", "tcp "+on(far.Via[0], "8200"), "here "+far.V4, "tcp "+on(Host6, "8200"), "here "+far.V6)
	w.Down("far")
	w.Sh("rmdir networks/red")
}

// An internal network is left by nothing: not by a packet of whatever kind, nor by a question about a name.
func testInternal(w *World) {
	w.Sh("mkdir networks/hush; echo 1 > networks/hush/internal")
	w.Background(w.Host, "serve here 8300")
	asked := serveNames(w)
	w.Up("shop", "bridge", "net.ports", "0.0.0.0:8080:80\n[::]:8080:80", "net.dns", Outside4)
	w.Up("mute", "hush", "net.dns", Outside4)
	w.Up("deaf", "hush")
	w.Answers("shop", "name one.example", "203.0.113.7")
	if n := len(asked()); n == 0 {
		w.T.Error("the server outside was not asked: what follows shows nothing")
	}
	mute, deaf, web := w.Link("mute"), w.Link("deaf"), w.Link("web")
	if len(mute.Via) > 0 {
		w.T.Errorf("an internal network has a way out: %v", mute.Via)
	}
	outside := w.Outside.Sniff(w.T, "uplink")
	everywhere := "peer escape " + strings.Join([]string{Outside4, Outside6, Host4, Host6, web.V4, web.V6, web.Via[0], web.Via[1]}, " ")
	w.Say("app", everywhere)
	if n, err := escaped(outside, netip.MustParseAddr(web.V4)); err != nil || n == 0 {
		w.T.Errorf("of what app sends nothing was seen outside, %v: what follows shows nothing", err)
	}
	w.Answers("mute", "tcp "+on(deaf.V4, "80"), "deaf "+mute.V4, "tcp "+on(deaf.V6, "80"), "deaf "+mute.V6, "name deaf", deaf.V4+" "+deaf.V6,
		"name one.example", "none", "name two.example.", "none", "owner 203.0.113.7", "none",
		"tcp "+on(Host4, "8300"), "~ error: .*", "tcp "+on(Host6, "8300"), "~ error: .*", "tcp "+on(Host4, "8080"), "~ error: .*", "tcp "+on(Outside4, "80"), "~ error: .*")
	w.Say("mute", everywhere)
	// Nor with a route, which who has the right to make one can have.
	hush := strings.Fields(w.Read("networks/hush/gateway"))
	w.Run("bold", "hush", `sh -c "ip route add default via `+hush[0]+`; ip -6 route add default via `+hush[1]+`; ip route; ip -6 route; `+everywhere+`"`, "caps", "+net_admin")
	if w.Read("bold/wait"); strings.Count(w.Read("bold/log"), "default via") != 2 {
		w.T.Errorf("no default routes: %s", w.Read("bold/log"))
	}
	w.Down("bold")
	n, err := escaped(outside, netip.MustParseAddr(mute.V4), netip.MustParseAddr(mute.V6))
	if err != nil || n > 0 || len(asked()) > 0 {
		w.T.Errorf("%d packets were seen outside, %v; names %q", n, err, asked())
	}
	w.refused("echo 8090:80 > mute/net.ports", "Invalid argument")
	w.Answers("app", "tcp "+on(deaf.V4, "80"), "error: timeout", "ping "+deaf.V6+" 1", "error: timeout")
	w.Answers(w.Host, "tcp "+on(deaf.V4, "80"), "~ deaf .*")
	w.Down("mute", "deaf", "shop")
	w.Sh("rmdir networks/hush")
}

// escaped counts the packets with the mark of peer, of these addresses, or to a server of names.
func escaped(s *Sniffer, from ...netip.Addr) (n int, err error) {
	packets, err := s.Packets(200 * time.Millisecond)
	for _, p := range packets {
		of := bytes.Contains(p, []byte("ctrfs-escape"))
		for _, a := range from {
			of = of || bytes.Contains(p, a.AsSlice())
		}
		if of {
			n++
		}
	}
	return n, err
}

// serveNames answers questions about names outside: each has the address 203.0.113.7. It returns what has been asked since the last call.
func serveNames(w *World) (asked func() []string) {
	w.T.Helper()
	var packets net.PacketConn
	err := w.Outside.Do(func() (err error) { packets, err = net.ListenPacket("udp", on(Outside4, "53")); return err })
	if err != nil {
		w.T.Fatal(err)
	}
	names := make(chan string, 1000)
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(to dns.ResponseWriter, q *dns.Msg) {
		names <- q.Question[0].Name
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(203, 0, 113, 7)}}
		}
		to.WriteMsg(m)
	})}
	go server.ActivateAndServe()
	w.T.Cleanup(func() { server.Shutdown() })
	return func() (all []string) {
		for len(names) > 0 {
			all = append(all, <-names)
		}
		return all
	}
}
