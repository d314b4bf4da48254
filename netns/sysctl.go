package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctl makes a setting of this thread's namespace what it should be, and returns what it was. It is the only way by which one is
// written: /proc/sys/net is that of the thread that opens. Writing some takes RTNL, so it is done only when there is a difference.
//
// Error: fs.ErrNotExist where the kernel has none such (an older one, one without IPv6) or the link is gone.
func sysctl(name, value string) (was string, err error) {
	// By system calls: an os.File costs twice as many, and this is done for every container.
	fd, err := unix.Open(sysctls+name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("net/%s: %w", name, err)
	}
	defer unix.Close(fd)
	var b [64]byte
	n, err := unix.Pread(fd, b[:], 0)
	if err != nil {
		return "", fmt.Errorf("read net/%s: %w", name, err)
	}
	was = strings.TrimSpace(string(b[:n]))
	if was == value {
		return was, nil
	}
	// At the beginning, where the kernel takes it; anywhere else it is dropped without an error. It waits for RTNL by starting over.
	if _, err := unix.Pwrite(fd, []byte(value), 0); err != nil {
		return was, fmt.Errorf("set net/%s to %s: %w", name, value, err)
	}
	return was, nil
}

const sysctls = "/proc/sys/net/"

// sysctlNow reads a setting of this thread's namespace.
func sysctlNow(name string) (string, error) {
	b, err := os.ReadFile(sysctls + name)
	return strings.TrimSpace(string(b)), err
}

// setting is a sysctl of a link and what it should be.
type setting struct{ family, name, value string }

// settle makes the settings of a link what they should be, in this thread's namespace. What the kernel does not have is left out.
func settle(link string, settings []setting) error {
	for _, s := range settings {
		if _, err := sysctl(s.file(link), s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// file is where the setting of a link is. A name of a link may hold a dot (eth0.10), never a slash.
func (s setting) file(link string) string {
	return s.family + "/conf/" + link + "/" + s.name
}
