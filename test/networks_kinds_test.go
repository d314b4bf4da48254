package test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// A container in two networks reaches both; its way out is the first.
func testTwo(w *World) {
	w.Sh("mkdir networks/blue networks/red")
	w.Up("b", "blue")
	w.Up("r", "red")
	w.Up("both", "blue, red", "net.dns", Outside4)
	links := w.Links("both")
	if len(links) != 2 || links[0].Name != "eth0" || links[0].Network != "blue" || links[1].Name != "eth1" || links[1].Network != "red" || len(links[0].Via) != 2 || len(links[1].Via) != 0 {
		w.T.Fatalf("the links of both: %+v", links)
	}
	b, r := w.Link("b"), w.Link("r")
	w.Answers("both", "tcp b:80", "~ b .*", "tcp r:80", "~ r .*", "name b", b.V4+" "+b.V6, "name r", r.V4+" "+r.V6, "owner "+r.V4, "r.", "owner "+b.V6, "b.",
		"tcp "+on(Outside4, "80"), "outside "+Host4, "tcp "+on(Outside6, "80"), "outside "+Host6)
	w.Answers("b", "name both", links[0].V4+" "+links[0].V6, "tcp "+on(links[1].V4, "80"), "error: timeout")
	w.Answers("r", "name both", links[1].V4+" "+links[1].V6, "tcp both:80", "~ both .*", "tcp "+on(r.V4, "80"), "r "+r.V4)
	if got, want := w.Read("networks/red/members"), fmt.Sprintf("both %s %s\nr %s %s", links[1].V4, links[1].V6, r.V4, r.V6); got != want {
		w.T.Errorf("the members of red: %q, wanted %q", got, want)
	}
	w.refused("rmdir networks/red", "busy")
	// The first thing that a program does may be to ask for a name, and in a network that is not the first.
	w.Sh("mkdir networks/hush; echo 1 > networks/hush/internal")
	crowd(24, func(i int) {
		name := fmt.Sprint("q", i)
		w.Run(name, "hush, red", "peer name r")
		w.Read(name + "/wait")
		if got := w.Read(name + "/log"); got != r.V4+" "+r.V6 {
			w.T.Errorf("%s, which asks at once, hears of r: %s", name, got)
		}
	})
	w.Sh("rmdir q[0-9]* networks/hush")
	w.Down("both", "b", "r")
	w.Sh("rmdir networks/blue networks/red")
}

// An address that is wanted is given, or refused with the reason; so also while others are being made ready.
func testWanted(w *World) {
	const rounds, crowd = 3, 8
	for range rounds {
		w.Sh("mkdir networks/blue; printf '10.201.5.0/24\\nfd01:2:3::/64\\n' > networks/blue/subnet")
		var all sync.WaitGroup
		for i := range crowd {
			// The first addresses, which are those that are made ready for others.
			all.Go(func() {
				w.Run(fmt.Sprint("w", i), fmt.Sprintf("blue 10.201.5.%d fd01:2:3::%x", 2+i, 2+i), "peer serve w")
			})
		}
		all.Wait()
		for i := range crowd {
			all.Go(func() { w.Run(fmt.Sprint("x", i), "blue", "sleep 1000") })
		}
		all.Wait()
		w.Answers("x0", "ping 10.201.5.2 1", "answered", "tcp 10.201.5.9:80", "~ w .*", "tcp [fd01:2:3::2]:80", "~ w .*", "ping fd01:2:3::9 1", "answered")
		seen := map[string]string{}
		for i := range crowd {
			if l := w.Link(fmt.Sprint("w", i)); l.V4 != fmt.Sprint("10.201.5.", 2+i) || l.V6 != fmt.Sprintf("fd01:2:3::%x", 2+i) {
				w.T.Errorf("w%d has %s and %s", i, l.V4, l.V6)
			}
			for _, name := range []string{fmt.Sprint("w", i), fmt.Sprint("x", i)} {
				l := w.Link(name)
				for _, a := range []string{l.V4, l.V6, l.MAC} {
					if other := seen[a]; other != "" {
						w.T.Errorf("%s and %s both have %s", name, other, a)
					}
					seen[a] = name
				}
			}
		}
		w.Sh("mkdir late; echo $ROOT > late/rootfs; echo 'sleep 1000' > late/cmd; echo 'blue 10.201.5.3' > late/net")
		for _, c := range []struct{ address, errno, why string }{
			{"10.201.5.3", "Address already in use", "address of w1"}, {"10.201.5.1", "Address already in use", "gateway"}, {"10.201.5.255", "Address already in use", "last"},
			{"10.201.6.3", "Invalid argument", "subnet"}, {"fd01:2:4::9", "Invalid argument", "subnet"},
		} {
			w.Write("late/net", "blue "+c.address)
			w.refused("echo 1 > late/start", c.errno)
			if got := w.Read("late/error"); !strings.Contains(got, c.why) {
				w.T.Errorf("%s: %s", c.address, got)
			}
		}
		w.Sh("rmdir late")
		for i := range crowd {
			w.Down(fmt.Sprint("w", i), fmt.Sprint("x", i))
		}
		w.Sh("rmdir networks/blue")
	}
}

// A macvlan puts containers on a link of this machine's, beside it.
func testMacvlan(w *World) {
	w.Host.IP(w.T, "link add lan0 type veth peer name lan0 netns "+string(w.Outside)+"\nlink set lan0 addrgenmode none up")
	w.Outside.IP(w.T, "link set lan0 addrgenmode none up\naddress add 198.51.100.1/24 dev lan0\naddress add 2001:db8:2::1/64 dev lan0 nodad")
	w.Sh("mkdir networks/lan; echo macvlan > networks/lan/driver; echo lan0 > networks/lan/parent; printf '198.51.100.0/24\\n2001:db8:2::/64\\n' > networks/lan/subnet")
	w.Up("one", "lan 198.51.100.10 2001:db8:2::10")
	w.Up("two", "lan", "net.dns", "198.51.100.1")
	two := w.Link("two")
	w.Answers("two", "tcp 198.51.100.10:80", "one "+two.V4, "tcp [2001:db8:2::10]:80", "one "+two.V6, "ping 198.51.100.10 8000", "answered",
		"tcp 198.51.100.1:80", "outside "+two.V4, "tcp [2001:db8:2::1]:80", "outside "+two.V6)
	w.Answers(w.Outside, "tcp 198.51.100.10:80", "one 198.51.100.1", "tcp [2001:db8:2::10]:80", "one 2001:db8:2::1")
	if got := w.Say("two", "cat /etc/resolv.conf"); !strings.Contains(got, "nameserver 198.51.100.1") {
		w.T.Errorf("/etc/resolv.conf: %q", got)
	}
	w.refused("echo 8080:80 > two/net.ports", "Invalid argument")
	w.Down("one", "two")
	w.Sh("echo nothing > networks/lan/parent")
	w.Sh("mkdir three; echo $ROOT > three/rootfs; echo true > three/cmd; echo lan > three/net")
	w.refused("echo 1 > three/start", "No such device")
	w.Sh("rmdir three networks/lan")
	w.Host.IP(w.T, "link del lan0")
}

// The other things that net can be: another container's stack, this machine's, one with a path, and none.
func testStacks(w *World) {
	w.Run("beside", "container web", "sleep 1000")
	w.Answers("beside", "tcp 127.0.0.1:80", "web 127.0.0.1", "name web", "~ .*", "tcp "+on(Outside4, "80"), "outside "+Host4)
	if a, b := w.Say("beside", "cat /etc/resolv.conf"), w.Say("web", "cat /etc/resolv.conf"); a != b || !strings.Contains(a, w.Link("web").Via[0]) {
		w.T.Errorf("/etc/resolv.conf beside web: %q, in it: %q", a, b)
	}
	w.Run("here", "host", "sleep 1000")
	w.Answers("here", "tcp "+on(Outside4, "80"), "outside "+Host4, "tcp "+on(w.Link("web").V4, "80"), "~ web .*")
	w.Run("there", w.Outside.Path(), "sleep 1000")
	w.Answers("there", "tcp "+on(Host4, "80"), "error: connection refused", "tcp 127.0.0.1:80", "outside 127.0.0.1")
	w.Run("nowhere", "none", "sleep 1000")
	w.Answers("nowhere", "tcp "+on(Outside4, "80"), "error: network is unreachable", "tcp "+on(Outside6, "80"), "error: network is unreachable", "tcp 127.0.0.1:80", "error: connection refused")
	if got := w.Read("nowhere/net.address") + w.Read("beside/net.address") + w.Read("here/net.address"); got != "" {
		w.T.Errorf("net.address where no link is its own: %q", got)
	}
	w.Down("beside", "here", "there", "nowhere")
}

// Rates bound both directions, and change while the container runs; counters count what passes.
func testRates(w *World) {
	w.Background(w.Outside, "sink 81")
	w.Run("slow", "bridge", "sleep 1000", "net.rate", "egress 1M\ningress 2M")
	took := func(verb, to string, bytes int) float64 {
		answer := w.Ask("slow", fmt.Sprintf("%s %s %d", verb, to, bytes))[0]
		ms, err := strconv.Atoi(answer)
		if err != nil {
			w.T.Errorf("%s: %s", verb, answer)
		}
		return float64(ms) / 1000
	}
	stat := func(key string) int {
		for line := range strings.Lines(w.Read("slow/net.stat")) {
			if value, ok := strings.CutPrefix(line, "eth0."+key+" "); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(value))
				return n
			}
		}
		w.T.Errorf("net.stat has no %s: %q", key, w.Read("slow/net.stat"))
		return 0
	}
	tx, rx := stat("tx_bytes"), stat("rx_bytes")
	up, down := took("push", on(Outside4, "81"), 700_000), took("pull", on(Outside6, "81"), 1_400_000)
	tx, rx = stat("tx_bytes")-tx, stat("rx_bytes")-rx
	if r := 0.7 / up; r < 0.6 || r > 1.3 {
		w.T.Errorf("it sends %.2f MB a second, wanted 1", r)
	}
	if r := 1.4 / down; r < 1.2 || r > 2.6 {
		w.T.Errorf("it receives %.2f MB a second, wanted 2", r)
	}
	if tx < 700_000 || tx > 1_400_000 || rx < 1_400_000 || rx > 1_700_000 {
		w.T.Errorf("net.stat has seen %d bytes go and %d come", tx, rx)
	}
	if got := w.Read("slow/stats"); !regexp.MustCompile(`(?m)^net.rx_bytes [1-9][0-9]{6}$`).MatchString(got) || !regexp.MustCompile(`(?m)^net.tx_bytes [1-9][0-9]{5,6}$`).MatchString(got) {
		w.T.Errorf("stats: %q", got)
	}
	w.Write("slow/net.rate", "egress max\ningress max")
	if got := w.Read("slow/net.rate"); got != "" {
		w.T.Errorf("net.rate: %q", got)
	}
	if up, down = took("push", on(Outside4, "81"), 10_000_000), took("pull", on(Outside4, "81"), 10_000_000); up > 1 || down > 1 {
		w.T.Errorf("without a rate 10 MB take %.2f and %.2f seconds", up, down)
	}
	w.Down("slow")
}

// Without NAT a container is outside what it is inside. It can be changed while the network is used.
func testNAT(w *World) {
	w.Sh("mkdir networks/open; echo 0 > networks/open/nat")
	w.Up("c", "open")
	c := w.Link("c")
	w.Answers("c", "tcp "+on(Outside4, "80"), "error: timeout")
	w.Outside.IP(w.T, "route add "+c.V4+" via "+Host4+"\nroute add "+c.V6+" via "+Host6)
	w.Answers("c", "tcp "+on(Outside4, "80"), "outside "+c.V4, "tcp "+on(Outside6, "80"), "outside "+c.V6, "udp "+on(Outside4, "80")+" 3000", "outside "+c.V4, "ping "+Outside6+" 10", "answered")
	w.Answers(w.Outside, "tcp "+on(c.V4, "80"), "error: timeout")
	w.Write("networks/open/nat", "1")
	w.Answers("c", "tcp "+on(Outside4, "80"), "outside "+Host4, "tcp "+on(Outside6, "80"), "outside "+Host6)
	w.Outside.IP(w.T, "route del "+c.V4+" via "+Host4+"\nroute del "+c.V6+" via "+Host6)
	w.Down("c")
	w.Sh("rmdir networks/open")
}

// A container has its addresses from its first start on until it is removed, and so has its neighbour the right hardware address.
func testLeases(w *World) {
	w.Up("c", "bridge")
	first := w.Link("c")
	w.Answers("web", "tcp "+on(first.V4, "80"), "~ c .*", "tcp "+on(first.V6, "80"), "~ c .*")
	for range 3 {
		w.Sh("echo KILL > c/kill; cat c/wait > /dev/null")
		if got := w.Sh("grep '^c ' networks/bridge/members"); got != "c "+first.V4+" "+first.V6+"\n" {
			w.T.Errorf("stopped, it has %q", got)
		}
		w.Run("other", "bridge", "sleep 1000")
		w.Write("c/start", "1")
		Eventually(w.T, "c serves", patience, func() bool { return strings.HasPrefix(w.Read("c/log"), "up") })
		if l := w.Link("c"); l.V4 != first.V4 || l.V6 != first.V6 || l.MAC != first.MAC {
			w.T.Errorf("first %v, now %v", first, l)
		}
		if l := w.Link("other"); l.V4 == first.V4 {
			w.T.Errorf("another one has %s", l.V4)
		}
		w.Answers("web", "tcp "+on(first.V4, "80"), "~ c .*", "tcp "+on(first.V6, "80"), "~ c .*")
		w.Down("other")
	}
	w.Down("c")
	if got := w.Read("networks/bridge/members"); strings.Contains(got, first.V4+" ") {
		w.T.Errorf("removed, it still has its address: %q", got)
	}
	w.Up("d", "bridge "+first.V4)
	if l := w.Link("d"); l.V4 != first.V4 {
		w.T.Errorf("the address that was given back is not given again: %v", l)
	}
	w.Answers("web", "tcp "+on(first.V4, "80"), "~ d .*")
	w.Down("d")
}

// What a container finds about its network in /etc is in nobody else's, and no change of its root.
func testEtc(w *World) {
	w.Up("c", "bridge", "net.hosts", "10.9.8.7 db database\nalias", "net.dns", Outside4)
	l := w.Link("c")
	for file, wanted := range map[string][]string{
		"hosts":       {"127.0.0.1", "localhost", l.V4, l.V6, "c", "10.9.8.7", "database"},
		"resolv.conf": {"nameserver " + l.Via[0], "nameserver " + l.Via[1]},
		"hostname":    {"c"},
	} {
		got := w.Say("c", "cat /etc/"+file)
		for _, word := range wanted {
			if !strings.Contains(got, word) {
				w.T.Errorf("/etc/%s lacks %q: %q", file, word, got)
			}
		}
	}
	w.Answers("c", "name database", "10.9.8.7", "name c", l.V4+" "+l.V6, "name localhost", "~ .*127.0.0.1.*")
	w.Answers("app", "name c", l.V4+" "+l.V6, "name alias", l.V4+" "+l.V6, "name ALIAS.", l.V4+" "+l.V6, "name database", "none", "owner "+l.V4, "c.", "tcp alias:80", "~ c .*")
	// Its root has none of these files: so much is to be seen of that there is something in their places.
	if got := w.Read("c/changes"); got != "C /etc\nA /etc/hostname\nA /etc/hosts\nA /etc/resolv.conf" {
		w.T.Errorf("changes: %q", got)
	}
	if entries, err := os.ReadDir(w.Base + "/root/etc"); err != nil || len(entries) != 1 {
		w.T.Errorf("the root's own /etc: %v, %v", entries, err)
	}
	w.Sh("mv c d")
	w.Answers("app", "name c", "none", "name d", l.V4+" "+l.V6, "name alias", l.V4+" "+l.V6, "owner "+l.V6, "d.")
	w.Down("d")
	w.Answers("app", "name d", "none", "name alias", "none", "owner "+l.V4, "none")

	// With a root that has none of these files and may not be written to, and one that has them, and may not be either.
	w.Run("ro", "bridge", "sleep 1000", "rootfs.mode", "ro")
	if got := w.Say("ro", "ls /etc"); got != "passwd" {
		w.T.Errorf("/etc of a root that is only read: %q", got)
	}
	w.Down("ro")
	w.Sh("mkdir full; echo host > full/rootfs; echo bridge > full/net; echo 'sleep 1000' > full/cmd; echo ro > full/rootfs.mode; echo 1 > full/start")
	full := w.Link("full")
	if got := w.Say("full", "cat /etc/resolv.conf /etc/hosts"); !strings.Contains(got, full.Via[0]) || !strings.Contains(got, full.V4) {
		w.T.Errorf("/etc of this machine's root, which is only read: %q", got)
	}
	if got := w.Read("full/changes"); got != "" {
		w.T.Errorf("changes of a root with all of these files: %q", got)
	}
	if got := w.Say("full", "getent ahostsv4 web"); !strings.Contains(got, w.Link("web").V4) {
		w.T.Errorf("getent ahostsv4 web: %q", got)
	}
	if got := w.Say("full", "getent ahostsv6 app"); !strings.Contains(got, w.Link("app").V6) {
		w.T.Errorf("getent ahostsv6 app: %q", got)
	}
	if got := w.Say("full", "getent hosts "+w.Link("app").V4); strings.Join(strings.Fields(got), " ") != w.Link("app").V4+" app" {
		w.T.Errorf("getent hosts of an address: %q", got)
	}
	w.Down("full")
}

// Containers within others are found by the name alone by those beside them, and by the path from the inside out by all.
func testNested(w *World) {
	w.Sh("mkdir pod yard")
	w.Up("pod/web", "bridge")
	w.Up("pod/db", "bridge")
	w.Up("yard/web", "bridge", "net.dns", Outside4)
	pod, db, yard, web := w.Link("pod/web"), w.Link("pod/db"), w.Link("yard/web"), w.Link("web")
	both := func(l Link) string { return l.V4 + " " + l.V6 }
	w.Answers("pod/db", "name web", both(pod), "name web.pod", both(pod), "name web.yard", both(yard), "name db", both(db), "tcp web.yard:80", "~ yard.web .*")
	w.Answers("yard/web", "name web", both(yard), "name web.pod", both(pod), "name db.pod", both(db))
	w.Answers("app", "name web", both(web), "name web.pod", both(pod), "name db", both(db), "owner "+pod.V4, "web.pod.", "owner "+yard.V6, "web.yard.")
	w.Down("pod/web", "pod/db", "yard/web")
	w.Sh("rmdir pod yard")
}
