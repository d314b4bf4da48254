package names

import (
	"net/netip"
	"strings"
)

// word says whether a text is one word of a line of resolv.conf(5) or hosts(5), and begins no comment. It is the last check before a file of
// the container, whoever made the text: what is no word cannot be a name either.
func word(s string) bool {
	if s == "" {
		return false
	}
	for _, b := range []byte(s) {
		if b <= ' ' || b >= 0x7f || b == '#' || b == ';' {
			return false
		}
	}
	return true
}

func words(all []string) (good []string) {
	for _, s := range all {
		if word(s) {
			good = append(good, s)
		}
	}
	return good
}

// ResolvConf makes the resolv.conf(5) of a container. What is no address or word is left out. Where a resolver of this package is the server, the
// options should have ndots:0: with the default of 1, a client looks for web in the domains of search first, and a domain with a
// wildcard answers.
func ResolvConf(servers []netip.Addr, search []string, options []string) string {
	var b strings.Builder
	for _, s := range servers {
		if text := s.String(); s.IsValid() && word(text) { // a zone can be anything
			b.WriteString("nameserver " + text + "\n")
		}
	}
	line(&b, "search", " ", words(search))
	line(&b, "options", " ", words(options))
	return b.String()
}

// localhosts is what hosts(5) of every distribution begins with.
const localhosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// Hosts makes the hosts(5) of a container: localhost, its own name at its own addresses, and further lines ADDRESS NAME..., which are left out when
// they are none. A hostname with a domain is also known without it. Further lines come first, since what is first in hosts(5) counts.
func Hosts(own []netip.Addr, hostname string, extra []string) string {
	var b strings.Builder
	b.WriteString(localhosts)
	for _, e := range extra {
		if strings.ContainsAny(e, "\n\r#") {
			continue
		}
		f := strings.Fields(e)
		if len(f) < 2 || len(words(f)) != len(f) {
			continue
		}
		if addr, err := netip.ParseAddr(f[0]); err == nil {
			line(&b, addr.String(), "\t", f[1:])
		}
	}
	if !word(hostname) {
		return b.String()
	}
	aliases := []string{hostname}
	if short, _, ok := strings.Cut(hostname, "."); ok && short != "" {
		aliases = append(aliases, short)
	}
	for _, a := range own {
		if text := a.String(); a.IsValid() && word(text) {
			line(&b, text, "\t", aliases)
		}
	}
	return b.String()
}

// line adds a line, if there are words for it.
func line(b *strings.Builder, first, separator string, words []string) {
	if len(words) > 0 {
		b.WriteString(first + separator + strings.Join(words, " ") + "\n")
	}
}
