package fs

import "testing"

// TestNetworkTree: networks is a directory of the root as images is, whose things have settings.
func TestNetworkTree(t *testing.T) {
	m := mount(t)
	m.sh("stat -c '%a %F' networks; ls -A networks; mkdir networks/b networks/a; ls networks", "755 directory\na\nb\n")
	for _, word := range []string{"none", "host", "container", "new", ".x"} {
		m.fails("mkdir networks/"+word, "Invalid argument")
	}
	m.fails("mkdir networks/a", "File exists")
	m.fails("mkdir networks/a/x", "not permitted")
	m.fails("mv networks/a networks/c", "not permitted")
	m.sh("chown 65534:65534 networks/a; chmod 750 networks/a; stat -c '%u %a' networks/a networks/a/subnet", "65534 750\n65534 644\n")
	m.sh("rmdir networks/a; rm -r networks/b; ls networks", "")
}

// TestNetworkSettings: what is written is what is read, a line or a word each; what is refused changes nothing.
func TestNetworkSettings(t *testing.T) {
	m := mount(t)
	m.sh("mkdir networks/a; cd networks/a; cat driver nat internal mtu subnet gateway members interface error", "bridge\n1\n0\n0\n\n\n")
	m.sh("cd networks/a; { echo 10.1.2.0/24; echo fd00:1::/64; } > subnet; cat subnet gateway", "10.1.2.0/24\nfd00:1::/64\n10.1.2.1\nfd00:1::1\n")
	m.sh("cd networks/a; echo 10.1.2.9 > gateway; cat gateway; v=$(cat gateway); echo \"$v\" > gateway; cat gateway; echo > gateway; cat gateway",
		"10.1.2.9\nfd00:1::1\n10.1.2.9\nfd00:1::1\n10.1.2.1\nfd00:1::1\n")
	m.sh("cd networks/a; echo 10.2.0.0/16 > subnet; echo fd00:2::/64 >> subnet; cat subnet gateway", "10.2.0.0/16\nfd00:2::/64\n10.2.0.1\nfd00:2::1\n")
	m.sh("cd networks/a; echo 0 > nat; echo 1 > internal; echo 9000 > mtu; echo macvlan > driver; echo eth0 > parent; cat nat internal mtu driver parent", "0\n1\n9000\nmacvlan\neth0\n")
	m.fails("echo bridge > networks/a/driver", "Invalid argument")
	m.sh("cd networks/a; cat error driver", "check parent \"eth0\": a bridge lies on no link; write macvlan into driver first, or empty parent\nmacvlan\n")
	m.sh("cd networks/a; for f in parent driver nat internal mtu; do echo > $f; done; cat nat internal mtu driver parent error", "1\n0\n0\nbridge\n\n")
	for file, bad := range map[string][]string{
		"subnet":  {"10.1.2.3", "10.1.2.3/24", "10.0.0.0/7", "10.0.0.0/31", "127.0.0.0/8", "224.0.0.0/24", "fe80::/64", "10.1.2.0/24 10.3.0.0/16", "::ffff:10.0.0.0/104", "x"},
		"gateway": {"10.3.0.1", "10.2.0.0", "10.2.255.255", "10.2.0.1 10.2.0.2", "x", "fe80::1%eth0"},
		"mtu":     {"1279", "65536", "-1", "x"}, "nat": {"2", "yes"}, "internal": {"2"}, "driver": {"ipvlan"}, "parent": {"a/b", "0123456789abcdef"},
	} {
		for _, value := range bad {
			m.fails("echo '"+value+"' > networks/a/"+file, "Invalid argument")
		}
	}
	m.sh("cd networks/a; cat subnet; rm subnet; cat subnet", "10.2.0.0/16\nfd00:2::/64\n\n")
	a, _ := m.Network("a")
	a.(*memNetwork).used.Store(true)
	m.sh("cat networks/a/members; echo 0 > networks/a/nat", "c 10.1.2.3\npod/d\n")
	m.fails("echo 10.3.0.0/16 > networks/a/subnet", "busy")
	m.fails("rmdir networks/a", "busy")
}

// TestNetFiles: a container's networks, and that net and the net line of namespaces are one setting.
func TestNetFiles(t *testing.T) {
	m := mount(t)
	m.sh("mkdir c; cd c; cat net net.ports net.hosts net.dns net.rate net.address net.stat", "none\n\n\n\n\n")
	for written, read := range map[string]string{"host": "host", "container pod/x": "container pod/x", "container ..": "container ..", "/run/netns/x": "/run/netns/x",
		"blue": "blue", "blue 10.1.2.3 fd00::3,red": "blue 10.1.2.3 fd00::3, red", "none": "none", "": "none"} {
		m.sh("cd c; echo '"+written+"' > net; cat net; v=$(cat net); echo \"$v\" > net; cat net", read+"\n"+read+"\n")
	}
	m.sh("cd c; echo blue > net; grep net namespaces; v=$(cat namespaces); echo \"$v\" > namespaces; cat net; echo net host > namespaces; cat net; echo net new > namespaces; cat net",
		"net new\nblue\nhost\nnone\n")
	m.sh("cd c; echo net pod > namespaces; cat net; echo container pod > net; grep net namespaces", "container pod\nnet pod\n")
	for _, bad := range []string{"blue 10.1.2.3 10.1.2.4", "blue, blue", "blue,", "blue x", "container", "new", "blue 10.1.2.3/24", ".x", "container /x"} {
		m.fails("echo '"+bad+"' > c/net", "Invalid argument")
	}
	m.sh("cd c; { echo 8080:80; echo 0.0.0.0:53:53/udp; echo [fd00::1]:80:80; } > net.ports; cat net.ports; echo 81:81/tcp >> net.ports; tail -n 1 net.ports; v=$(cat net.ports); echo \"$v\" > net.ports; wc -l < net.ports",
		"127.0.0.1:8080:80\n0.0.0.0:53:53/udp\n[fd00::1]:80:80\n127.0.0.1:81:81\n4\n")
	for _, bad := range []string{"80", "0:80", "80:0", "80:65536", "80:80/sctp", "a:80:80", "1.2.3.4:80", "127.0.0.1:81:9", "0.0.0.0:8080:1", "[fe80::1%1]:80:80", "80:80/", "+80:80", "80:+80"} {
		m.fails("echo '"+bad+"' >> c/net.ports", "Invalid argument")
	}
	m.sh("cd c; echo > net.ports; cat net.ports; { echo 10.0.0.1 a b; echo db; } > net.hosts; echo 10.0.0.53 > net.dns; cat net.hosts net.dns", "\n10.0.0.1 a b\ndb\n10.0.0.53\n")
	for _, bad := range []string{"10.0.0.1", "a b", "10.0.0.1 -a", "x..y", "a#b"} {
		m.fails("echo '"+bad+"' > c/net.hosts", "Invalid argument")
	}
	m.fails("echo x > c/net.dns", "Invalid argument")
	m.fails("printf '10.0.0.1\\n10.0.0.2\\n10.0.0.3\\n10.0.0.4\\n' | cat > c/net.dns", "Invalid argument")
	m.sh("cd c; echo egress 10M > net.rate; echo ingress 1G > net.rate; cat net.rate; echo egress max > net.rate; cat net.rate", "egress 10485760\ningress 1073741824\ningress 1073741824\n")
	for _, bad := range []string{"egress 0", "egress 10", "up 10M", "egress x", "egress 5G"} {
		m.fails("echo '"+bad+"' > c/net.rate", "Invalid argument")
	}
	m.sh("cd c; echo blue > net; mkdir ../d; cat config.json > ../d/config.json; cd ../d; cat net net.hosts net.dns net.rate", "blue\n10.0.0.1 a b\ndb\n10.0.0.53\ningress 1073741824\n")
	m.sh("cd c; echo x > cmd; echo 1 > start; cat net.address net.stat", "eth0 blue 02:00:00:00:00:01 10.1.2.3/24 via 10.1.2.1\neth0.rx_bytes 7\neth0.tx_bytes 8\n")
	m.fails("echo red > c/net", "busy")
	m.sh("echo 80:80 > c/net.ports; cat c/net.ports", "127.0.0.1:80:80\n")
}
