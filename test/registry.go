package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Registry is a registry of Debian's package docker-registry on a port of the loopback device, for the time of a test.
type Registry struct {
	Addr string // "127.0.0.1:40123"
	dir  string
	t    testing.TB
}

// RequirePrograms fails the test, or skips it on machines that are not CI, when a program is missing.
func RequirePrograms(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Require(t, fmt.Errorf("%w; run test/setup test", err))
		}
	}
}

// StartRegistry starts one, with what more its configuration shall have.
func StartRegistry(t testing.TB, more ...string) *Registry {
	t.Helper()
	RequirePrograms(t, "docker-registry", "skopeo", "umoci")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Registry{Addr: l.Addr().String(), dir: t.TempDir(), t: t}
	l.Close()
	config := fmt.Sprintf("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s/storage\n  delete:\n    enabled: true\nhttp:\n  addr: %s\n%s\n",
		r.dir, r.Addr, strings.Join(more, "\n"))
	if err := os.WriteFile(r.dir+"/config.yml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(r.dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("docker-registry", "serve", r.dir+"/config.yml")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	Eventually(t, "the registry answers", 10*time.Second, func() bool {
		c, err := net.Dial("tcp", r.Addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return r
}

// Tool runs a program that must succeed.
func Tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Layout makes an OCI layout with one image, called latest: a layer of each directory, and what umoci config takes.
func Layout(t testing.TB, layers []string, config ...string) string {
	t.Helper()
	dir := t.TempDir()
	at := dir + "/layout"
	Tool(t, "umoci", "init", "--layout", at)
	Tool(t, "umoci", "new", "--image", at+":latest")
	for i, layer := range layers {
		tar := filepath.Join(dir, fmt.Sprint(i, ".tar"))
		Tool(t, "tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", layer, "-cf", tar, ".")
		Tool(t, "umoci", "raw", "add-layer", "--image", at+":latest", tar)
		if err := os.Remove(tar); err != nil {
			t.Fatal(err)
		}
	}
	if len(config) > 0 {
		Tool(t, "umoci", append([]string{"config", "--image", at + ":latest"}, config...)...)
	}
	return at
}

// Push puts the image of a layout into the registry, under a name and with skopeo's flags, and returns its reference.
func (r *Registry) Push(layout, name string, flags ...string) string {
	r.t.Helper()
	args := append([]string{"--insecure-policy", "copy", "--dest-tls-verify=false"}, flags...)
	Tool(r.t, "skopeo", append(args, "oci:"+layout+":latest", "docker://"+r.Addr+"/"+name)...)
	return r.Addr + "/" + name
}
