package firewall

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

// example is what the package comment shows the table of.
var example = Wanted{
	Networks: []Network{
		{Link: "blue", NAT: true,
			Subnets:  []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd01::/64")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd01::1")}},
		{Link: "db", Internal: true,
			Subnets:  []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.2.0.1")}},
	},
	Ports: []Port{
		{Proto: "tcp", Host: netip.IPv4Unspecified(), Port: 8080, To: netip.MustParseAddrPort("10.1.0.2:80"), Link: "blue"},
		{Proto: "tcp", Host: netip.IPv6Unspecified(), Port: 8080, To: netip.MustParseAddrPort("[fd01::2]:80"), Link: "blue"},
		{Proto: "udp", Host: netip.MustParseAddr("127.0.0.1"), Port: 53, To: netip.MustParseAddrPort("10.1.0.3:53"), Link: "blue"},
	},
	Guarded4: []string{"eth0"}, Guarded6: []string{"eth0"},
}

// TestPackageComment: it shows the table as nft prints it.
func TestPackageComment(t *testing.T) {
	w := newHost(t)
	w.must(w.table().Apply(example))
	if v := w.run("", "nft", "--version"); !strings.HasPrefix(v, "nftables v1.0.6") {
		t.Skipf("%s may print it otherwise", strings.TrimSpace(v))
	}
	source, err := os.ReadFile("doc.go")
	w.must(err)
	if want := "//\t" + strings.ReplaceAll(strings.TrimSpace(w.listing()), "\n", "\n//\t"); !strings.Contains(string(source), strings.ReplaceAll(want, "//\t\n", "//\n")) {
		t.Errorf("the package comment does not show\n%s", want)
	}
}
