package overlay

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/crash"
)

// host makes the skeleton of the root called host. A skeleton never changes once it is published, since overlays lie on
// it; when the host has changed there is another. One of an earlier boot is deleted when the store is opened. Those of
// this boot stay: after a restart of the server nobody knows which of them a running container is still on, and they
// are small.
type host struct {
	dir     *os.File // STATE/host
	from    string   // the directory that is the host: "/", but in tests
	sources []string // paths of everything that a skeleton is made from
	trash   *trash

	mu sync.Mutex // held while a skeleton is built
}

func newHost(dir *os.File, from string, trash *trash) *host {
	h := &host{dir: dir, from: from, trash: trash}
	for _, name := range slices.Concat(carried, accounts, copied) {
		h.sources = append(h.sources, filepath.Join(from, name))
	}
	return h
}

// carried are the trees that programs live in. Where the host has a directory it is mounted read-only; where it has a
// symbolic link (merged /usr) the skeleton has it too. The stores of NixOS and Guix are what their /usr is.
var carried = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store", "gnu/store"}

// copied are the files and trees that are copied, as far as every user of the host may read them: that keeps out
// private keys, shadow and whatever an administrator has closed. A pattern is looked at only when a skeleton is built;
// the packages that such files come with change one of the others too.
var copied = []string{
	// the dynamic linker, and the programs behind names such as "awk"
	"etc/ld.so.cache", "etc/ld.so.conf", "etc/ld.so.conf.d", "etc/ld-musl-*.path", "etc/alternatives", "etc/static",
	// certificates, wherever a distribution keeps them; no directory called "private" is entered
	"etc/ssl/openssl.cnf", "etc/ssl/cert.pem", "etc/ssl/certs", "etc/ca-certificates", "etc/ca-certificates.conf",
	"etc/pki/ca-trust", "etc/pki/tls/cert.pem", "etc/pki/tls/certs", "etc/pki/tls/openssl.cnf", "etc/pki/java",
	"etc/crypto-policies", "var/lib/ca-certificates",
	// what the C library and languages look up: time, names, types, locales
	"etc/localtime", "etc/timezone", "etc/protocols", "etc/services", "etc/rpc", "etc/ethertypes", "etc/gai.conf",
	"etc/mime.types", "etc/locale.alias", "etc/locale.conf", "etc/terminfo", "etc/os-release", "etc/debian_version", "etc/fonts", "etc/java-*",
	// shells
	"etc/profile", "etc/profile.d", "etc/bash.bashrc", "etc/bashrc", "etc/inputrc", "etc/shells", "etc/login.defs",
}

// accounts are read and filtered, see account.go.
var accounts = []string{"etc/passwd", "etc/group"}

// directories are made empty.
var directories = []struct {
	name string
	mode os.FileMode
}{
	{"dev", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"mnt", 0o755}, {"opt", 0o755}, {"proc", 0o555}, {"root", 0o700},
	{"run", 0o755}, {"run/lock", os.ModeSticky | 0o777}, {"srv", 0o755}, {"sys", 0o555}, {"tmp", os.ModeSticky | 0o777},
	{"var", 0o755}, {"var/cache", 0o755}, {"var/lib", 0o755}, {"var/local", 0o755}, {"var/log", 0o755}, {"var/mail", 0o755},
	{"var/opt", 0o755}, {"var/spool", 0o755}, {"var/tmp", os.ModeSticky | 0o777},
}

// links are the customary symbolic links.
var links = [][2]string{
	{"../proc/self/mounts", "etc/mtab"}, {"/run", "var/run"}, {"/run/lock", "var/lock"},
}

// files are written. The name service asks files and DNS only: what else a host asks (systemd, sssd, nis) are daemons
// that a container does not reach. hosts names no host, so that it is true under any hostname. resolv.conf is where a
// network's is bound.
var files = [][2]string{
	{"etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
	{"etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n" +
		"protocols: files\nservices: files\nethers: files\nrpc: files\n"},
	{"etc/host.conf", "multi on\n"},
	{"etc/resolv.conf", ""},
}

// parts returns the mounts that belong on a skeleton: the targets of carried directories.
func (h *host) parts() []string {
	var parts []string
	for _, name := range carried {
		if info, err := os.Lstat(filepath.Join(h.from, name)); err == nil && info.IsDir() {
			parts = append(parts, "/"+name)
		}
	}
	return parts
}

// skeleton opens the skeleton of the host as it is now, and builds it if there is none.
func (h *host) skeleton() (*os.File, error) {
	name, err := h.signature()
	if err != nil {
		return nil, err
	}
	dir, err := openat(h.dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.build(name); err != nil {
		return nil, fmt.Errorf("the skeleton of the root called host: %w", err)
	}
	return openat(h.dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

// Warm builds what the root called host needs before anyone asks for it, which takes a tenth of a second. An error is the
// next Prepare's to report.
func (s *Store) Warm() error {
	dir, err := s.host.skeleton()
	if err != nil {
		return err
	}
	return dir.Close()
}

// signature is the name of the present skeleton: the boot, and a digest of what its sources' inodes say. About fifty
// stats, some 50 µs, at each Prepare. To look less often would be cheaper, and give a program that was installed a moment
// ago the linker's cache of before.
func (h *host) signature() (string, error) {
	boot, err := bootID()
	if err != nil {
		return "", err
	}
	facts := make([]byte, 0, 4096)
	var st unix.Stat_t
	for _, path := range h.sources {
		if unix.Lstat(path, &st) != nil {
			st = unix.Stat_t{} // absent is a fact too
		}
		// Access times move without a change, so the structure is not taken as a whole.
		for _, fact := range []int64{int64(st.Dev), int64(st.Ino), int64(st.Mode), st.Size, st.Ctim.Nano(), st.Mtim.Nano()} {
			facts = binary.LittleEndian.AppendUint64(facts, uint64(fact))
		}
	}
	sum := sha256.Sum256(facts)
	return fmt.Sprintf("%s-%x", boot, sum[:8]), nil
}

// bootID identifies the boot (random(4)). What was written in this one need not have reached the disk to be read again;
// what is from another may be torn.
var bootID = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""), err
})

// unfinished is the name under which a skeleton is built. Only one is at a time.
const unfinished = "new"

// forgetOtherBoots throws away what this boot did not make, or not finish.
func (h *host) forgetOtherBoots() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	names, err := list(h.dir)
	for _, name := range names {
		if !strings.HasPrefix(name, boot+"-") {
			err = errors.Join(err, h.trash.move(h.dir, name))
		}
	}
	return err
}

// build makes the skeleton and publishes it by a rename. Somebody else may have been faster.
func (h *host) build(name string) error {
	if dir, err := openat(h.dir, name, unix.O_PATH|unix.O_DIRECTORY); err == nil {
		return dir.Close()
	}
	if err := h.trash.take(h.dir, unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := unix.Mkdirat(int(h.dir.Fd()), unfinished, 0o755); err != nil {
		return err
	}
	crash.Point("begin the root called host")
	to, err := os.OpenRoot(filepath.Join(fdPath(h.dir), unfinished))
	if err != nil {
		return err
	}
	defer to.Close()
	b := builder{from: h.from, to: to}
	if err := b.build(); err != nil {
		return errors.Join(err, h.trash.take(h.dir, unfinished))
	}
	err = unix.Renameat2(int(h.dir.Fd()), unfinished, int(h.dir.Fd()), name, unix.RENAME_NOREPLACE)
	crash.Point("publish the root called host")
	return err
}
