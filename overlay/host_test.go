package overlay

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// The fake hosts that skeletons are built from: what they have, and what of it must and must not be in the skeleton.
var fakeHosts = []struct {
	name   string
	host   map[string]string
	parts  string
	has    map[string]string // name → content, "->" and a link's text, or "/" for a directory
	lacks  []string
	closed []string // of the host, to all but root
}{
	{
		name: "merged /usr",
		host: map[string]string{
			"usr/bin/": "", "bin": "->usr/bin", "sbin": "->usr/sbin", "lib": "->usr/lib", "lib64": "->usr/lib64",
			"etc/passwd": "root:$6$hash:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\n",
			"etc/group":  "root:x:0:\nadm:x:4:ann,www-data\nann:x:1000:\n", "etc/shadow": "root:secret", "etc/gshadow": "x",
			"etc/ld.so.cache": "cache", "etc/ld.so.conf.d/x.conf": "/opt", "etc/alternatives/awk": "->/usr/bin/mawk",
			"etc/ssl/certs/ca.pem": "->/usr/share/ca.crt", "etc/ssl/certs/bundle": "certs", "etc/ssl/certs/key.pem": "secret",
			"etc/ssl/private/key": "secret", "etc/ssl/certs/private/key": "secret", "etc/localtime": "->/usr/share/zoneinfo/UTC",
			"etc/hostname": "myhost", "etc/hosts": "10.0.0.1 intranet", "etc/nsswitch.conf": "passwd: sss", "etc/resolv.conf": "nameserver 10.0.0.2",
			"etc/ssh/ssh_host_key": "secret", "etc/java-17-openjdk/security/x": "java", "root/.ssh/id": "secret", "home/ann/x": "x",
			"etc/fonts/closed/x": "secret",
		},
		closed: []string{"etc/ssl/certs/key.pem", "etc/fonts/closed"},
		parts:  "/usr",
		has: map[string]string{
			"bin": "->usr/bin", "lib64": "->usr/lib64", "usr": "/", "proc": "/", "sys": "/", "dev": "/", "tmp": "/", "home": "/",
			"etc/passwd": "root:*:0:0:root:/root:/bin/bash\nwww-data:*:33:33::/var/www:/bin/false\n" + nobodyAccount + "\n",
			"etc/group":  "root:*:0:\nadm:*:4:www-data\n" + nobodyGroup + "\n", "etc/ld.so.cache": "cache", "etc/ld.so.conf.d/x.conf": "/opt",
			"etc/alternatives/awk": "->/usr/bin/mawk", "etc/ssl/certs/ca.pem": "->/usr/share/ca.crt", "etc/ssl/certs/bundle": "certs",
			"etc/localtime": "->/usr/share/zoneinfo/UTC", "etc/hosts": files[0][1], "etc/nsswitch.conf": files[1][1], "etc/resolv.conf": "",
			"var/run": "->/run", "etc/mtab": "->../proc/self/mounts", "etc/java-17-openjdk/security/x": "java", "var/tmp": "/",
		},
		lacks: []string{"etc/shadow", "etc/gshadow", "etc/ssl/private", "etc/ssl/certs/private", "etc/ssl/certs/key.pem", "etc/hostname",
			"etc/ssh", "root/.ssh", "home/ann", "lib32", "etc/fonts/closed"},
	},
	{
		name:  "separate directories",
		host:  map[string]string{"usr/": "", "bin/": "", "sbin/": "", "lib/": "", "etc/ssl/cert.pem": "->certs/ca.crt", "etc/ld-musl-x86_64.path": "/lib"},
		parts: "/usr /bin /sbin /lib",
		has: map[string]string{"bin": "/", "lib": "/", "etc/ssl/cert.pem": "->certs/ca.crt", "etc/ld-musl-x86_64.path": "/lib",
			"etc/passwd": rootAccount + "\n" + nobodyAccount + "\n"},
		lacks: []string{"lib64"},
	},
	{
		name:  "a store",
		host:  map[string]string{"usr/bin/": "", "bin/": "", "nix/store/": "", "nix/var/": "", "etc/static": "->/nix/store/etc", "etc/ssl/certs/b": "->/etc/static/b"},
		parts: "/usr /bin /nix/store",
		has:   map[string]string{"nix/store": "/", "etc/static": "->/nix/store/etc"},
		lacks: []string{"nix/var"},
	},
	{name: "nothing at all", has: map[string]string{"etc/hosts": files[0][1]}, lacks: []string{"usr"}},
}

func TestSkeleton(t *testing.T) {
	// Whatever the umask, the modes are right.
	defer syscall.Umask(syscall.Umask(0o077))
	for _, test := range fakeHosts {
		t.Run(test.name, func(t *testing.T) {
			h := fakeHost(t, test.host)
			for _, name := range test.closed {
				if err := os.Chmod(filepath.Join(h.from, name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			dir := skeletonOf(t, h)
			if got := strings.Join(h.parts(), " "); got != test.parts {
				t.Errorf("mounts %q, want %q", got, test.parts)
			}
			for name, want := range test.has {
				checkEntry(t, filepath.Join(dir, name), want)
			}
			for _, name := range test.lacks {
				if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
					t.Errorf("%s is in the skeleton", name)
				}
			}
			checkModes(t, dir)
		})
	}
}

// fakeHost makes a host in a directory.
func fakeHost(t testing.TB, content map[string]string) *host {
	t.Helper()
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	base := t.TempDir()
	makeTree(t, base, map[string]string{"host/": "", "state/": "", "trash/": ""})
	makeTree(t, base+"/host", content)
	var dirs [2]*os.File
	for i, name := range []string{"/state", "/trash"} {
		f, err := os.Open(base + name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		dirs[i] = f
	}
	h := newHost(dirs[0], base+"/host", &trash{dir: dirs[1]})
	t.Cleanup(h.trash.close)
	return h
}

func skeletonOf(t testing.TB, h *host) string {
	t.Helper()
	f, err := h.skeleton()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	path, err := os.Readlink(fdPath(f))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func checkEntry(t *testing.T, path, want string) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	got := "/"
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		got, err = os.Readlink(path)
		got = "->" + got
	case 0:
		var text []byte
		text, err = os.ReadFile(path)
		got = string(text)
	}
	if err != nil || got != want {
		t.Errorf("%s is %q, %v; want %q", path, got, err, want)
	}
}

// checkModes sees to it that users of the container other than its root can use a skeleton, and cannot write to it.
func checkModes(t *testing.T, dir string) {
	special := map[string]fs.FileMode{"tmp": 0o777, "var/tmp": 0o777, "run/lock": 0o777, "root": 0o700, "proc": 0o555, "sys": 0o555}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		info, _ := d.Info()
		name, _ := filepath.Rel(dir, path)
		want := fs.FileMode(0o755)
		if perm, ok := special[name]; ok {
			want = perm
		} else if info.Mode().IsRegular() {
			want = 0o644
		}
		sticky := info.Mode()&fs.ModeSticky != 0
		if info.Mode().Type() != fs.ModeSymlink && (info.Mode().Perm() != want || sticky != (want == 0o777)) {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
		return nil
	})
}

// A skeleton is made once, and again when the host has changed; the earlier one stays as it is.
func TestSkeletonFollowsTheHost(t *testing.T) {
	h := fakeHost(t, map[string]string{"usr/": "", "etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/unrelated": "x"})
	first := skeletonOf(t, h)
	before := fingerprint(t, first)
	makeTree(t, h.from, map[string]string{"etc/unrelated": "y"})
	if again := skeletonOf(t, h); again != first {
		t.Errorf("%s was built for a host that has not changed", again)
	}
	seen := map[string]bool{first: true}
	for _, change := range []map[string]string{
		{"etc/passwd": "root:x:0:0::/root:/bin/sh\nmail:x:8:8::/:/bin/false\n"}, {"etc/ssl/certs/new.pem": "x"}, {"bin": "->usr/bin"}, {"etc/localtime": "->/usr"},
	} {
		makeTree(t, h.from, change)
		next := skeletonOf(t, h)
		if seen[next] {
			t.Errorf("%v: no new skeleton", change)
		}
		seen[next] = true
	}
	if fingerprint(t, first) != before {
		t.Error("the first skeleton has changed")
	}
}

// The real thing: this machine's own programs, with nothing but what a container shall see.
func TestRootHost(t *testing.T) {
	s := newStore(t)
	r := prepare(t, s, "h", engine.RootHost, engine.RootOverlay)
	expect(t, r, [][2]string{
		{"sh echo hello", "hello"},
		{"sh id -un", "root"},
		{"stat /", "40755 0:0"},
		{"writable /usr", "EROFS"}, {"writable /bin", "EROFS"}, {"flags /usr", "ro nodev"}, {"flags /", "nodev"},
		{"open /etc/shadow", "ENOENT"}, {"open /etc/gshadow", "ENOENT"}, {"open /etc/ssl/private", "ENOENT"}, {"ls /home", ""}, {"ls /root", ""},
		{"ls /proc", ""}, {"ls /dev", ""}, {"ls /sys", ""}, {"stat /tmp", "41777 0:0"}, {"stat /root", "40700 0:0"},
		{"write /etc/mine x", ""}, {"write /tmp/mine x", ""}, {"rm /etc/passwd", ""},
		{"sh getent passwd 65534 >/tmp/out 2>&1 || echo gone", "gone"},
	})
	r.Close()
	expect(t, prepare(t, s, "h", engine.RootHost, engine.RootOverlay), [][2]string{{"read /etc/mine", "x"}, {"open /etc/passwd", "ENOENT"}})
	expect(t, prepare(t, s, "other", engine.RootHost, engine.RootVolatile), [][2]string{
		{"open /etc/mine", "ENOENT"}, {"sh getent passwd nobody | cut -d: -f1-3", "nobody:*:65534"}, {"write /etc/mine x", ""},
	})
	expect(t, prepare(t, s, "other", engine.RootHost, engine.RootReadOnly), [][2]string{{"write /etc/mine x", "EROFS"}, {"sh echo hello", "hello"}})
}

// Names, certificates and an interpreter, as far as this machine has them.
func TestRootHostPrograms(t *testing.T) {
	s := newStore(t)
	for program, script := range map[string][2]string{
		"/usr/bin/python3":                   {`python3 -I -c 'import ssl,pwd,socket; print(pwd.getpwuid(0).pw_name, socket.gethostbyname("localhost"))'`, "root 127.0.0.1"},
		"/etc/ssl/certs/ca-certificates.crt": {`grep -m1 BEGIN.CERTIFICATE /etc/ssl/certs/ca-certificates.crt`, "-----BEGIN CERTIFICATE-----"},
		"/usr/bin/openssl":                   {`openssl version -d`, `OPENSSLDIR: "/usr/lib/ssl"`},
		"/usr/bin/awk":                       {`awk 'BEGIN { print 6*7 }'`, "42"},
	} {
		if _, err := os.Stat(program); err != nil {
			t.Logf("%s is not on this machine", program)
			continue
		}
		t.Run(filepath.Base(program), func(t *testing.T) {
			expect(t, prepare(t, s, "h", engine.RootHost, engine.RootVolatile), [][2]string{{"sh " + script[0], script[1]}})
		})
	}
}

// A layer that has links where the mounts go, or a root that has, does not get anything attached on the host.
func TestHostileTargets(t *testing.T) {
	s, outside := newStore(t), makeTree(t, tempDir(t), map[string]string{"canary": "alive"})
	makeTree(t, s.state+"/"+Home("c"), map[string]string{"upper/usr": "->../../../../../../.." + outside, "upper/lib": "->/", "work/": ""})
	before, table := fingerprint(t, outside), mountTable()
	r := prepare(t, s, "c", engine.RootHost, engine.RootOverlay)
	cmd := exec.Command("/proc/self/exe")
	for _, m := range r.Mounts[:2] {
		cmd.ExtraFiles = append(cmd.ExtraFiles, m.File)
	}
	// The link leads nowhere inside the root, so there is nothing to attach at: the launch must fail, not look outside.
	cmd.Env = []string{insideEnv + `={"At":"` + tempDir(t) + `","Targets":["/","/usr"],"Ops":["ls /"]}`}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "target /usr") {
		t.Errorf("a mount was attached somewhere: %v %s", err, out)
	}
	if fingerprint(t, outside) != before || mountTable() != table {
		t.Error("the host has changed")
	}
}
