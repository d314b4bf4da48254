package netns

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestWatch calls back for what matters, once for what comes together, and not for our own wires.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	lan := w.uplink("uplink0")
	_, err := w.Apply(blue())
	w.must(err)
	time.Sleep(2 * watchQuiet) // until the kernel is done with the new links
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	calls := make(chan int, 100)
	n := 0
	w.must(w.Watch(ctx, func() { n++; calls <- n }))
	quiet := func(why string) {
		t.Helper()
		select {
		case <-calls:
			t.Errorf("called back %s", why)
		case <-time.After(3 * watchQuiet):
		}
	}
	called := func(why string) {
		t.Helper()
		select {
		case <-calls:
		case <-time.After(patience):
			t.Errorf("not called back: %s", why)
		}
	}
	once := func(why string) {
		t.Helper()
		called(why)
		quiet("once more: " + why)
	}
	quiet("about nothing")

	ns := w.namespace()
	index, err := w.Connect(ns, wire(2))
	w.must(err)
	w.must(w.SetRate(index, 1e6, 1e6))
	w.must(w.Readdress(ns, wire(3)))
	w.must(w.ping(ns, "10.88.0.1", 10))
	w.must(w.Disconnect(index))
	_, err = w.Apply(blue())
	w.must(err)
	quiet("about a wire")

	set := func(name, value string) {
		w.in(w.ns, func() error { _, err := sysctl(name, value); return err })
	}
	set("ipv4/conf/ctrfs0/forwarding", "0")
	once("a flag of a bridge")
	set("ipv4/conf/all/forwarding", "1")
	once("all flags")
	set("ipv6/conf/all/forwarding", "1")
	once("all flags of IPv6")
	w.must(w.do(address(unix.RTM_DELADDR, 0, w.find("ctrfs0").index, blue().Gateways[0])))
	once("an address")
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(w.find("ctrfs0").index)
	w.must(w.do(request(unix.RTM_NEWLINK, 0, header, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1300)))))
	once("an mtu")
	w.must(w.do(route(unix.RTM_DELROUTE, 0, w.find("uplink0").index, unix.AF_INET, addrs("192.0.2.1")[0])))
	once("a route")
	w.must(w.Remove("ctrfs0", blue().Alias))
	called("a bridge") // which takes its time
	time.Sleep(watchMost)
	for len(calls) > 0 {
		<-calls
	}
	w.must(lan.Close())
	once("an uplink")

	// It goes on while there is news all the time.
	stop := time.After(2 * watchMost)
	value := "0"
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		case <-time.After(watchQuiet / 10):
			set("ipv4/conf/lo/forwarding", value)
			value = map[string]string{"0": "1", "1": "0"}[value]
		}
	}
	called("much at once") // several times by now
	time.Sleep(watchMost / 2)
	for len(calls) > 0 {
		if n := <-calls; n > 20 {
			t.Errorf("called back %d times", n)
		}
	}

	cancel()
	for end := time.Now().Add(patience); watching(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the watch goes on after its context")
		}
	}
	set("ipv4/conf/lo/forwarding", "1")
	set("ipv4/conf/lo/forwarding", "0")
	quiet("after the end")
}

// watching says whether a goroutine reads news.
func watching() bool {
	b := make([]byte, 1<<20)
	return strings.Contains(string(b[:runtime.Stack(b, true)]), "netns.view.watch(")
}
