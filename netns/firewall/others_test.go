package firewall

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// dockerLike is what a container engine that uses iptables-nft has: its chains are in the tables of iptables.
var dockerLike = []string{
	"iptables -t nat -N DOCKER",
	"iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
	"iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
	"iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
	"iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 8090 -j DNAT --to-destination 10.5.0.2:80",
	"iptables -N DOCKER",
	"iptables -N DOCKER-USER",
	"iptables -N DOCKER-FORWARD",
	"iptables -A FORWARD -j DOCKER-USER",
	"iptables -A FORWARD -j DOCKER-FORWARD",
	"iptables -A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	"iptables -A DOCKER-FORWARD -i docker0 -j ACCEPT",
	"iptables -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT",
	"iptables -P FORWARD DROP",
	"ip6tables -t nat -N DOCKER",
	"ip6tables -N DOCKER-USER",
	"ip6tables -A FORWARD -j DOCKER-USER",
	"iptables -A INPUT -i docker0 -p udp --dport 53 -j ACCEPT",
}

// firewalldLike is the shape of what a manager of zones has, in a table of its own.
const firewalldLike = `
table inet firewalld {
	chain mangle_PREROUTING { type filter hook prerouting priority mangle + 10; policy accept; }
	chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; jump nat_PRE_public; }
	chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; policy accept; oifname "wan0" masquerade; }
	chain nat_PRE_public { }
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		tcp dport { 22, 80 } accept
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		iifname "trusted0" accept
		reject with icmpx admin-prohibited
	}
}`

// load loads what somebody else has.
func (w world) load(t *testing.T, rules string) {
	t.Helper()
	switch rules {
	case "docker":
		requireProgram(t, "iptables")
		for _, line := range dockerLike {
			w.run("", strings.Fields(line)...)
		}
	case "firewalld":
		w.run(firewalldLike, "nft", "-f", "-")
	}
}

// TestOthersAreLeftAlone: nothing of the rules of others changes, not even a handle, whatever is done to ours.
func TestOthersAreLeftAlone(t *testing.T) {
	for _, rules := range []string{"docker", "firewalld"} {
		t.Run(rules, func(t *testing.T) {
			w := newHost(t)
			w.load(t, rules)
			before := w.others()
			same := func(when string) {
				t.Helper()
				if now := w.others(); now != before {
					t.Errorf("%s the others' rules are\n%s\nbefore:\n%s", when, now, before)
				}
			}
			tab := w.wantedTable()
			same("with our table")
			w.must(tab.Apply(Wanted{Networks: networks()[1:], Guarded4: []string{"up0"}, Guarded6: []string{"up0"}}))
			same("with fewer ports")
			repaired := w.watch(t, tab)
			w.run("delete table inet ctrfs-test", "nft", "-f", "-")
			select {
			case err := <-repaired:
				w.must(err)
			case <-time.After(soon):
				t.Error("no repair")
			}
			same("after a repair")
			w.must(tab.Remove())
			same("without our table")
			if len(before) < 500 {
				t.Errorf("there was hardly anything: %s", before)
			}
		})
	}
}

// TestObstacles: chains that drop what is forwarded are named, ours are not.
func TestObstacles(t *testing.T) {
	for rules, want := range map[string][]string{
		"":          nil,
		"docker":    {"chain FORWARD of table ip filter (policy drop)"},
		"firewalld": {"chain filter_FORWARD of table inet firewalld (ends in reject)"},
	} {
		w := newHost(t)
		tab := w.table()
		w.must(tab.Apply(Wanted{Networks: networks(), Ports: ports(), Guarded4: []string{"up0"}, Guarded6: []string{"up0"}}))
		w.load(t, rules)
		got, err := obstaclesIn(int(w.ns.Fd()))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q (%v), wanted %q", rules, got, err, want)
		}
	}
	w := newHost(t)
	requireProgram(t, "iptables")
	w.run("", "iptables", "-A", "FORWARD", "-j", "REJECT")
	w.run("", "ip6tables", "-A", "FORWARD", "-j", "DROP")
	w.run("table inet x { chain y { type filter hook forward priority 0; ip saddr 10.0.0.1 drop; } ; chain z { type filter hook input priority 0; policy drop; }; }", "nft", "-f", "-")
	want := []string{"chain FORWARD of table ip filter (ends in reject)", "chain FORWARD of table ip6 filter (ends in drop)"}
	if got, err := obstaclesIn(int(w.ns.Fd())); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q (%v), wanted %q", got, err, want)
	}
}

// TestBesideOthers: packets go as they should beside the rules of others. A chain of theirs that drops what is forwarded has to be
// told to let ours pass, by its owner; their ports stay theirs, even one that both publish.
func TestBesideOthers(t *testing.T) {
	requireProgram(t, "iptables")
	for _, first := range []string{"ours", "theirs"} {
		for _, rules := range []string{"docker", "firewalld"} {
			t.Run(rules+", "+first+" first", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				add := ports()
				add = append(add, publish("0.0.0.0:8090", "10.1.0.3:80", "bra")...)
				if first == "ours" {
					w.must(w.table().Apply(Wanted{Networks: networks(), Ports: add}))
				}
				w.load(t, rules)
				if first == "theirs" {
					w.must(w.table().Apply(Wanted{Networks: networks(), Ports: add}))
				}
				if rules == "docker" {
					if got := w.at["out1"].ask("tcp", "192.0.2.1:8080", never); got != "nothing" {
						t.Errorf("their policy let %q pass", got)
					}
					w.run("", "iptables", "-I", "DOCKER-USER", "-j", "ACCEPT")
					if got := w.at["out1"].ask("tcp", "192.0.2.1:8090", soon); got != "f1 192.0.2.2" {
						t.Errorf("a port that both publish: %s", got)
					}
				} else {
					if got := w.at["a1"].ask("tcp", "192.0.2.2:80", never); strings.HasPrefix(got, "out1") {
						t.Errorf("their policy let %q pass", got)
					}
					w.run("insert rule inet firewalld filter_FORWARD iifname bra accept", "nft", "-f", "-")
					w.run("insert rule inet firewalld filter_INPUT iifname bra accept", "nft", "-f", "-")
				}
				w.questions([]question{
					{"out1", "192.0.2.1:8080", "a1 192.0.2.2"},
					{"a1", "192.0.2.2:80", "out1 192.0.2.1"},
					{"a1", "192.0.2.1:8080", "a1 10.1.0.1"},
					{"host", "127.0.0.1:8080", "a1 10.1.0.1"},
					{"b1", "10.1.0.2:80", "nothing"},
				})
			})
		}
	}
}
