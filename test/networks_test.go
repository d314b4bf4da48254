package test

import (
	"net"
	"testing"
)

// on is an address and a port.
func on(address, port string) string { return net.JoinHostPort(address, port) }

// TestNetworks is what containers in networks can send to whom, on one mount.
func TestNetworks(t *testing.T) {
	w := MountWorld(t)
	w.Background(w.Outside, "serve outside")
	w.Up("web", "bridge")
	w.Up("app", "bridge")
	for _, c := range []struct {
		name string
		test func(*World)
	}{
		{"reach", testReach},
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
