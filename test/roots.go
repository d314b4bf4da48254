package test

import (
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// CacheDir is where test/setup and the tests keep what takes long to make. test/setup computes the same.
func CacheDir() string {
	if dir := os.Getenv("CTRFS_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return dir + "/ctrfs"
	}
	if home := os.Getenv("HOME"); home != "" {
		return home + "/.cache/ctrfs"
	}
	return "/var/.cache/ctrfs"
}

// applets are the names under which a busybox root offers busybox.
const applets = "sh ash cat chmod chown cp date dd df echo env false find grep head hostname id ifconfig ip kill ls mkdir " +
	"mknod mount mv nc nproc nslookup od ping ps printf pwd readlink rm rmdir sed seq sleep sort stat sync tail tee test " +
	"timeout touch tr true tty umount uname wc who whoami yes"

// BusyboxRoot makes the smallest root that is of use in dir: a static busybox with its names, and /etc/passwd.
func BusyboxRoot(dir string) error {
	from, err := staticBusybox()
	if err != nil {
		return err
	}
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/bin/busybox", program, 0o755); err != nil {
		return err
	}
	for name := range strings.FieldsSeq(applets) {
		if err := os.Symlink("busybox", dir+"/bin/"+name); err != nil {
			return err
		}
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
	return os.WriteFile(dir+"/etc/passwd", []byte(passwd), 0o644)
}

// staticBusybox finds a busybox that needs no interpreter, which is to say no libraries.
func staticBusybox() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	file, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is not static: run test/setup test", path)
		}
	}
	return path, nil
}

// DebianRoot returns the Debian that test/setup made, with nginx, redis, python3 and PostgreSQL in it.
func DebianRoot() (string, error) {
	dir := CacheDir() + "/debian"
	if _, err := os.Stat(dir + "/usr/sbin/nginx"); err != nil {
		return "", fmt.Errorf("no Debian to run: %w; run test/setup test", err)
	}
	return dir, nil
}

// TreeHash sums up everything about a directory that a container could change: names, types, modes, owners, sizes, times
// of change, and link targets. Contents are left out: they do not change without their time of change.
func TreeHash(dir string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		target, _ := os.Readlink(path)
		_, err = fmt.Fprintf(sum, "%q %o %d %d %d %d.%d %q\n", path, st.Mode, st.Uid, st.Gid, st.Size, st.Ctim.Sec, st.Ctim.Nsec, target)
		return err
	})
	return fmt.Sprintf("%x", sum.Sum(nil)), err
}

// copyFile copies one regular file, for tests that hand a program of this machine to a container.
func copyFile(to, from string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
