package names

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Host is what resolv.conf(5) says.
type Host struct {
	Servers []netip.AddrPort // in their order; the machine itself if none is named
	Search  []string         // domains in which names are looked for
	Options []string         // such as ndots:2, rotate
}

const (
	serversMax  = 3       // glibc's MAXNS: a program of the host asks no more of them
	resolvMax   = 1 << 20 // of a file; what lies behind is not read
	hostKeptMax = 64      // files whose content is kept
)

// kept holds what was read, as long as the files are the same: it is needed for every forward.
var kept struct {
	sync.Mutex
	hosts map[string]keptHost
}

type keptHost struct {
	state fileState
	host  Host
}

// fileState tells versions of a file apart, also when one replaces another.
type fileState struct {
	device, inode uint64
	size          int64
	modified      time.Time
}

// HostServers returns the servers of a resolv.conf(5): the machine itself if it has none, or there is no such file.
func HostServers(path string) ([]netip.AddrPort, error) {
	h, err := ReadHost(path)
	return h.Servers, err
}

// ReadHost reads a resolv.conf(5), or returns what it read before if the file has not changed since. The result is shared: do not
// change it. A line that is wrong is skipped, as programs of the host do; a file that cannot be read is an error, with its errno.
func ReadHost(path string) (Host, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return parseHost(nil), nil
	}
	if err != nil {
		return Host{}, err
	}
	state := stateOf(info)
	kept.Lock()
	k, ok := kept.hosts[path]
	kept.Unlock()
	if ok && k.state == state {
		return k.host, nil
	}
	// A FIFO would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return Host{}, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return Host{}, err
	}
	if !info.Mode().IsRegular() {
		return Host{}, fmt.Errorf("%s: not a regular file: %w", path, syscall.EINVAL)
	}
	text, err := io.ReadAll(io.LimitReader(f, resolvMax))
	if err != nil {
		return Host{}, err
	}
	k = keptHost{stateOf(info), parseHost(text)}
	kept.Lock()
	defer kept.Unlock()
	if kept.hosts == nil || len(kept.hosts) >= hostKeptMax {
		kept.hosts = map[string]keptHost{}
	}
	kept.hosts[path] = k
	return k.host, nil
}

func stateOf(info fs.FileInfo) fileState {
	s := fileState{size: info.Size(), modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode = st.Dev, st.Ino
	}
	return s
}

// parseHost leaves the grammar to the library, except for options, of which it knows only some.
func parseHost(text []byte) Host {
	var h Host
	c, err := dns.ClientConfigFromReader(bytes.NewReader(text))
	if err != nil {
		c = &dns.ClientConfig{}
	}
	for _, s := range c.Servers {
		if addr, err := netip.ParseAddr(s); err == nil && len(h.Servers) < serversMax {
			h.Servers = append(h.Servers, netip.AddrPortFrom(addr.Unmap(), defaultPort))
		}
	}
	if len(h.Servers) == 0 {
		h.Servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), defaultPort)}
	}
	h.Search = words(c.Search)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "options" {
			h.Options = append(h.Options, words(f[1:])...)
		}
	}
	return h
}
