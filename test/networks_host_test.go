package test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What other programs have in the firewall of a machine: Docker's rules, which drop what is to be forwarded and is not its own, and
// firewalld's, which do with a zone for the links of networks.
const (
	docker4 = `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 5000 -j DNAT --to-destination 172.17.0.2:5000
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 5000 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
`
	docker6 = `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
`
	firewalld = `table inet firewalld {
	ct helper helper-ftp-tcp { type "ftp" protocol tcp; }
	chain mangle_PREROUTING { type filter hook prerouting priority mangle + 10; policy accept; }
	chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; }
	chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; policy accept; iifname "lo" return; }
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		iifname "ctrfs*" accept
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport 22 accept
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		iifname "ctrfs*" accept
		oifname "ctrfs*" accept
		reject with icmpx admin-prohibited
	}
	chain filter_OUTPUT { type filter hook output priority filter + 10; policy accept; oifname "lo" accept; }
}
`
)

// counters and times are what differs in rules that are the same.
var countersAndTimes = regexp.MustCompile(`(?m)\[[0-9]+:[0-9]+\]|^# .*\n`)

// theirs is the firewall without what belongs to ctrfs.
func (w *World) theirs() string {
	w.T.Helper()
	text := w.Host.Run(w.T, "iptables-save; ip6tables-save; nft -s list tables | grep -v ' ctrfs-'; nft -s list table inet firewalld")
	return countersAndTimes.ReplaceAllString(text, "")
}

// load loads the rules of others, which a file has as nft or as iptables-save prints them.
func (w *World) load(command, rules string) {
	w.T.Helper()
	cmd := w.Host.Command("sh", "-c", command)
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.T.Fatalf("%s: %v: %s", command, err, out)
	}
}

// TestNetworksBesideFirewalls: what others have in the firewall is not touched. What they drop is dropped, and ctrfs says so; what they
// take away of ctrfs's own is there again at once.
func TestNetworksBesideFirewalls(t *testing.T) {
	requirePrograms(t, []string{"iptables-restore", "ip6tables-restore", "nft"})
	w := NewWorld(t)
	t.Cleanup(func() { w.Host.Run(t, "nft flush ruleset") })
	w.Background(w.Outside, "serve outside")
	w.load("iptables-restore", docker4)
	w.load("ip6tables-restore", docker6)
	w.load("nft -f -", firewalld)
	before := w.theirs()
	if err := w.Mount(); err != nil {
		t.Fatal(err)
	}
	w.Up("web", "bridge", "net.ports", "0.0.0.0:8080:80\n[::]:8080:80")
	w.Up("app", "bridge")
	web := w.Link("web")
	w.Answers("app", "tcp "+on(Outside4, "80"), "error: timeout", "tcp "+on(Outside6, "80"), "error: timeout", "tcp web:80", "~ web .*|error: timeout") // the last, where bridges are filtered, too
	w.Answers(w.Outside, "tcp "+on(Host4, "8080"), "error: timeout")
	if got := w.Sh("grep ^forwarding host"); !strings.Contains(got, "forwarding unknown") || !strings.Contains(got, "interface") {
		t.Errorf("with rules of others in the way, host says %q", got)
	}
	if now := w.theirs(); now != before {
		t.Errorf("the rules of others are changed: %q", differences(before, now))
	}

	accept := "for t in iptables ip6tables; do $t -I DOCKER-USER -i 'ctrfs+' -j ACCEPT; $t -I DOCKER-USER -o 'ctrfs+' -j ACCEPT; done"
	w.Host.Run(t, "%s", accept)
	before = w.theirs()
	works := func() {
		t.Helper()
		w.Answers("app", "tcp "+on(Outside4, "80"), "outside "+Host4, "tcp "+on(Outside6, "80"), "outside "+Host6, "name web", web.V4+" "+web.V6, "tcp "+on(Host4, "8080"), "~ web .*")
		w.Answers(w.Outside, "tcp "+on(Host4, "8080"), "web "+Outside4, "tcp "+on(Host6, "8080"), "web "+Outside6)
		w.Answers(w.Host, "tcp 127.0.0.1:8080", "~ web .*")
		if now := w.theirs(); now != before {
			t.Errorf("the rules of others are changed: %q", differences(before, now))
		}
	}
	works()

	// Somebody loads a firewall anew, which begins by taking everything away.
	begin := time.Now()
	w.Host.Run(t, "nft flush ruleset")
	w.load("iptables-restore", docker4)
	w.load("ip6tables-restore", docker6)
	w.load("nft -f -", firewalld)
	w.Host.Run(t, "%s", accept)
	Eventually(t, "a published port works again", time.Second, func() bool { return w.Ask(w.Outside, "tcp "+on(Host4, "8080"))[0] == "web "+Outside4 })
	t.Logf("the firewall was loaded anew and mended within %v", time.Since(begin).Round(time.Millisecond))
	works()
	for range 3 {
		w.Host.Run(t, "nft delete table $(nft list tables | grep -o 'inet ctrfs-.*')")
		Eventually(t, "the table is there again", time.Second, func() bool { return strings.Contains(w.Host.Run(t, "nft list tables"), "inet ctrfs-") })
	}
	works()
	w.Down("app", "web")
	if now := w.theirs(); now != before {
		t.Errorf("after the containers the rules of others are changed: %q", differences(before, now))
	}
	if err := w.Umount("--stop"); err != nil {
		t.Fatal(err)
	}
	if now := w.theirs(); now != before {
		t.Errorf("after the mount the rules of others are changed: %q", differences(before, now))
	}
}

// TestNetworksSurvive: the server dies, or the keeper with it, or the mount is taken away with the containers left; the containers keep
// their networks, and everything works through the next one.
func TestNetworksSurvive(t *testing.T) {
	w := MountWorld(t)
	w.Background(w.Outside, "serve outside")
	w.Background(w.Outside, "sink 81")
	w.Sh("mkdir networks/blue networks/hush; echo 1 > networks/hush/internal")
	w.Up("web", "bridge", "net.ports", "0.0.0.0:8080:80\n[::]:8080:80\n127.0.0.1:8081:80", "net.hosts", "alias", "net.dns", Outside4)
	w.Up("app", "bridge, blue, hush", "net.rate", "egress 100M\ningress 100M", "net.dns", Outside4)
	w.Up("far", "blue", "net.dns", Outside4)
	addresses := w.Sh("cat networks/*/members networks/*/interface */net.address")
	count := 0
	works := func() {
		t.Helper()
		web, far, here := w.Link("web"), w.Link("far"), w.Links("app")
		w.Answers("app", "tcp web:80", "~ web .*", "name alias", web.V4+" "+web.V6, "name far", far.V4+" "+far.V6, "owner "+web.V6, "web.", "name none", "none",
			"tcp "+on(Outside4, "80"), "outside "+Host4, "tcp "+on(Outside6, "80"), "outside "+Host6, "ping "+far.V6+" 3000", "answered", "tcp "+on(Host6, "8080"), "~ web .*")
		w.Answers("web", "name app", here[0].V4+" "+here[0].V6, "tcp "+on(Host4, "8080"), "~ web .*", "tcp "+on(here[1].V4, "80"), "error: timeout")
		w.Answers(w.Outside, "tcp "+on(Host4, "8080"), "web "+Outside4, "tcp "+on(Host6, "8080"), "web "+Outside6, "tcp "+on(Host4, "8081"), "error: connection refused")
		w.Answers(w.Host, "tcp 127.0.0.1:8081", "~ web .*", "take 8080", "error: address already in use")
		if now := w.Sh("cat networks/*/members networks/*/interface */net.address"); now != addresses {
			t.Errorf("addresses were\n%sand are\n%s", addresses, now)
		}
		// One that comes now gets an address that nobody has.
		count++
		name := fmt.Sprint("late", count)
		w.Up(name, "bridge, blue", "net.dns", Outside4, "net.ports", "0.0.0.0:8090:80")
		late := w.Links(name)
		if strings.Contains(addresses, late[0].V4+"/") || strings.Contains(addresses, late[1].V6+"/") {
			t.Errorf("%s has the address of another one: %v", name, late)
		}
		w.Answers(name, "tcp web:80", "~ web .*", "tcp far:80", "~ far .*", "tcp app:80", "~ app .*")
		w.Answers(w.Outside, "tcp "+on(Host4, "8090"), name+" "+Outside4)
		w.Down(name)
	}
	works()
	mended := func() {
		t.Helper()
		for end := time.Now().Add(Patiently(5 * time.Second)); ; time.Sleep(20 * time.Millisecond) {
			answer := w.Ask(w.Outside, "tcp "+on(Host4, "8080"))[0]
			if answer == "web "+Outside4 {
				return
			}
			if time.Now().After(end) {
				log, _ := os.ReadFile(w.Instance.Run + "/ctrfs.log")
				t.Fatalf("it is not mended: %s; ctrfs.log:\n%s", answer, tail(log))
			}
		}
	}
	for _, c := range []struct {
		name string
		does func()
	}{
		{"the server dies", func() { w.killServer() }},
		{"the server dies again and again", func() { w.killServer(); w.killServer() }},
		{"the keeper dies", w.killKeeperAlone},
		{"umount --keep", func() {
			if err := w.Umount("--keep"); err != nil {
				t.Fatal(err)
			}
			w.Answers(w.Outside, "tcp "+on(Host4, "8080"), "web "+Outside4, "tcp "+on(Host6, "8080"), "web "+Outside6)
			for link := range strings.FieldsSeq(addresses) { // that of blue
				if strings.HasPrefix(link, "ctrfs") {
					w.Host.IP(t, "link del "+link)
					break
				}
			}
			if err := w.Mount(); err != nil {
				t.Fatal(err)
			}
		}},
		{"the bridges are deleted", func() {
			for link := range strings.FieldsSeq(w.Sh("cat networks/*/interface")) {
				w.Host.IP(t, "link del "+link)
			}
			mended()
		}},
		{"a bridge is taken down, and loses its addresses", func() {
			link := strings.TrimSpace(w.Sh("cat networks/bridge/interface"))
			w.Host.IP(t, "address flush dev "+link+"\nlink set "+link+" down")
			mended()
		}},
		{"forwarding is switched off", func() {
			err := w.Host.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/uplink/forwarding", []byte("0"), 0) })
			if err != nil {
				t.Fatal(err)
			}
			mended()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			c.does()
			t.Logf("over after %v", time.Since(begin).Round(time.Millisecond))
			works()
		})
	}
	w.Down("far", "web", "app")
	w.Sh("rmdir networks/blue networks/hush")
	// Nobody is in it any more: the next one finds it mended, too.
	link := strings.TrimSpace(w.Sh("cat networks/bridge/interface"))
	w.Host.IP(t, "link del "+link)
	w.Up("web", "bridge")
	w.Up("app", "bridge")
	Eventually(t, "they find each other", 5*time.Second, func() bool { return strings.HasPrefix(w.Ask("app", "tcp "+on(w.Link("web").V4, "80"))[0], "web ") })
	w.Answers("app", "tcp web:80", "~ web .*")
	w.Run("stays", "bridge", "sleep 1000") // for umount --stop to stop
	for _, line := range w.failures() {
		t.Errorf("ctrfs.log: %s", line)
	}
}
