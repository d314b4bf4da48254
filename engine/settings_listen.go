package engine

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Listener is a socket that is opened when a container is started, and whose first connection launches it: a line of net.listen.
type Listener struct {
	Kind    string `json:"kind"`            // tcp, udp, unix or unix-dgram
	Address string `json:"address"`         // an IP address with its port, or a path
	Inetd   bool   `json:"inetd,omitempty"` // the program gets the connection, not the socket
	Name    string `json:"name,omitempty"`  // what the program knows the socket by; "" for the container's
	Max     int    `json:"max,omitempty"`   // programs at a time, for inetd; 0 for the default
	Mode    uint32 `json:"mode,omitempty"`  // permission bits of a path; 0 for the default
}

// The kinds of socket.
const (
	ListenTCP       = "tcp"
	ListenUDP       = "udp"
	ListenUnix      = "unix"
	ListenUnixDgram = "unix-dgram"
)

// The styles in which a program gets what has come.
const (
	listenFds   = "fds"
	listenInetd = "inetd"
)

// Bounds and defaults of a line.
const (
	ListenMax       = 32   // sockets of a container: a launch has room for so many
	listenRuns      = 64   // connections of an inetd socket at a time
	listenRunsMax   = 4096 //
	listenMode      = 0o666
	listenNameMax   = 255 // sd_listen_fds(3)
	unixPathMax     = 107 // unix(7), with its NUL
	listenCure      = "write tcp ADDRESS:PORT, udp ADDRESS:PORT, unix /PATH or unix-dgram /PATH, then fds or inetd, then a name"
	listenSeparator = "\n"
)

// Stream reports whether the socket has connections.
func (l Listener) Stream() bool { return l.Kind == ListenTCP || l.Kind == ListenUnix }

// Path reports whether its address is a path.
func (l Listener) Path() bool { return l.Kind == ListenUnix || l.Kind == ListenUnixDgram }

// AddrPort is the address of one that has no path.
func (l Listener) AddrPort() (netip.AddrPort, error) { return netip.ParseAddrPort(l.Address) }

// Runs is how many programs an inetd socket has at a time.
func (l Listener) Runs() int {
	if l.Max == 0 {
		return listenRuns
	}
	return l.Max
}

// FileMode is the permission bits of a path.
func (l Listener) FileMode() uint32 {
	if l.Mode == 0 {
		return listenMode
	}
	return l.Mode
}

// String is what [ParseListener] reads.
func (l Listener) String() string {
	words := []string{l.Kind, l.Address}
	switch {
	case l.Inetd:
		words = append(words, listenInetd)
	case l.Name != "":
		words = append(words, listenFds)
	}
	if l.Max != 0 {
		words = append(words, fmt.Sprintf("max=%d", l.Max))
	}
	if l.Mode != 0 {
		words = append(words, fmt.Sprintf("mode=%04o", l.Mode))
	}
	if l.Name != "" {
		words = append(words, l.Name)
	}
	return strings.Join(words, " ")
}

// ParseListener reads a line of net.listen.
func ParseListener(line string) (Listener, error) {
	words := strings.Fields(line)
	bad := func(why, cure string) (Listener, error) { return Listener{}, Invalid("net.listen", line, why, cure) }
	if len(words) < 2 {
		return bad("not a socket", listenCure)
	}
	l := Listener{Kind: words[0]}
	var why string
	switch l.Kind {
	case ListenTCP, ListenUDP:
		l.Address, why = listenAddress(words[1])
	case ListenUnix, ListenUnixDgram:
		l.Address, why = listenPath(words[1])
	default:
		why = Quote(l.Kind) + " is no kind of socket"
	}
	if why != "" {
		return bad(why, listenCure)
	}
	words = words[2:]
	if len(words) > 0 && (words[0] == listenFds || words[0] == listenInetd) {
		l.Inetd, words = words[0] == listenInetd, words[1:]
	}
	for _, word := range words {
		if why := l.option(word); why != "" {
			return bad(why, listenCure)
		}
	}
	switch {
	case l.Inetd && !l.Stream():
		return bad("there are no connections on it, of which each could have a program", "write fds, or a tcp or unix socket")
	case l.Inetd && l.Name != "":
		return bad(Quote(l.Name)+" is a name, and a program that gets a connection is told none", "leave it out")
	}
	return l, nil
}

// option takes a word that follows the style, or says why not.
func (l *Listener) option(word string) (why string) {
	key, value, has := strings.Cut(word, "=")
	switch {
	case has && key == "max" && l.Inetd:
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil || n < 1 || n > listenRunsMax {
			return fmt.Sprintf("%s is not a number of programs, 1 to %d", Quote(value), listenRunsMax)
		}
		if l.Max = int(n); n == listenRuns {
			l.Max = 0
		}
	case has && key == "mode" && l.Path():
		n, err := strconv.ParseUint(value, 8, 32)
		if err != nil || n < 1 || n > 0o777 {
			return Quote(value) + " are no permission bits, 1 to 777"
		}
		if l.Mode = uint32(n); n == listenMode {
			l.Mode = 0
		}
	case has:
		return Quote(word) + " is no option of such a socket"
	case l.Name != "":
		return Quote(word) + " is one word too many"
	default:
		l.Name = word
		return listenName(word)
	}
	return ""
}

// listenName says why a word cannot be in LISTEN_FDNAMES.
func listenName(name string) (why string) {
	if len(name) > listenNameMax {
		return "the name is too long"
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' || name[i] == ':' {
			return Quote(name) + " is no name: it is printable, without a colon"
		}
	}
	return ""
}

// listenAddress reads an IP address with a port. A port alone is one of this machine that nobody else reaches.
func listenAddress(text string) (address, why string) {
	if !strings.Contains(text, ":") {
		text = ":" + text
	}
	if strings.HasPrefix(text, ":") {
		text = "127.0.0.1" + text
	}
	if rest, all := strings.CutPrefix(text, "*:"); all {
		text = "0.0.0.0:" + rest
	}
	a, err := netip.ParseAddrPort(text)
	switch {
	case err != nil:
		return "", Quote(text) + " is not an IP address with a port"
	case a.Port() == 0:
		return "", "there is no port 0"
	case a.Addr().Is4In6():
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return a.String(), ""
}

// listenPath reads a path. A name that is no path would be open to everybody who shares the network namespace (CVE-2020-15257).
func listenPath(text string) (address, why string) {
	switch {
	case !path.IsAbs(text):
		return "", Quote(text) + " is not an absolute path"
	case len(text) > unixPathMax:
		return "", fmt.Sprintf("the path is longer than %d bytes", unixPathMax)
	case path.Clean(text) != text || text == "/":
		return "", Quote(text) + " is not the shortest name of a file"
	}
	return text, ""
}

// Listeners are the sockets. The slice is never changed.
func (c *Config) Listeners() []Listener { return c.Extension.Listen }

// Listen is the content of the net.listen file.
func (c *Config) Listen() (lines []string) {
	for _, l := range c.Extension.Listen {
		lines = append(lines, l.String())
	}
	return lines
}

// SetListen is its inverse.
func (c *Config) SetListen(lines []string) error {
	var all []Listener
	for _, line := range lines {
		l, err := ParseListener(line)
		if err != nil {
			return err
		}
		same := func(other Listener) bool { return other.Kind == l.Kind && other.Address == l.Address }
		switch {
		case slices.ContainsFunc(all, same):
			return Invalid("net.listen", line, "the address is there twice", "leave one out")
		case len(all) > 0 && all[0].Inetd != l.Inetd:
			return Invalid("net.listen", line, "one socket is fds and another one inetd", "make two containers of it")
		}
		all = append(all, l)
	}
	if len(all) > ListenMax {
		return &Error{Op: "write", File: "net.listen", Value: fmt.Sprintf("%d lines", len(all)), Errno: syscall.E2BIG, Why: "too many sockets",
			Cure: fmt.Sprintf("write at most %d", ListenMax)}
	}
	c.Extension.Listen = all
	return nil
}

// Inetd reports whether each connection has a program of its own.
func (c *Config) Inetd() bool { return len(c.Extension.Listen) > 0 && c.Extension.Listen[0].Inetd }

// idleMax bounds net.idle, in seconds: thirty days.
const idleMax = 30 * day

// Idle is after how many seconds without a connection the program is stopped; 0 is never, and for inetd at once.
func (c *Config) Idle() int { return c.Extension.Idle }

// SetIdle sets it.
func (c *Config) SetIdle(seconds int64) error {
	if seconds < 0 || seconds > idleMax {
		return Invalid("net.idle", fmt.Sprint(seconds), "out of range", fmt.Sprintf("write 0 to %d seconds", idleMax))
	}
	c.Extension.Idle = int(seconds)
	return nil
}

// setOCIListen takes the annotation: the lines of the file.
func (c *Config) setOCIListen(text string) error {
	if text == "" {
		return c.SetListen(nil)
	}
	return c.SetListen(strings.Split(text, listenSeparator))
}

// setOCIIdle takes the annotation.
func (c *Config) setOCIIdle(text string) error {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return Invalid("net.idle", text, "not a number of seconds", "")
	}
	return c.SetIdle(int64(n))
}

// listenExtensions are the rows of both settings.
var listenExtensions = []extension{
	{annotation + "net.listen",
		func(c *Config) string { return strings.Join(c.Listen(), listenSeparator) },
		(*Config).setOCIListen,
		func(*Config) string { return "" },
		"no sockets"},
	{annotation + "net.idle",
		func(c *Config) string { return strconv.Itoa(c.Idle()) },
		(*Config).setOCIIdle,
		func(*Config) string { return "0" },
		"`0`"},
}

// validateListen refuses what a program that gets a connection as its standard input cannot have besides.
func (c *Config) validateListen() error {
	switch {
	case !c.Inetd():
	case c.Spec.Process.Terminal:
		return clash("net.listen", c.Listen()[0], "the program's standard input is the connection, and no terminal", "write 0 into tty, or fds in place of inetd")
	case c.Extension.StdinOpen:
		return clash("net.listen", c.Listen()[0], "the program's standard input is the connection", "write 0 into stdin.open, or fds in place of inetd")
	}
	return nil
}
