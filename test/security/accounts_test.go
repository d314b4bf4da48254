package security

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// id is a program that says who it is, by the kernel.
const id = `sh -c 'grep -e ^Uid -e ^Gid /proc/self/status'`

// who returns user and group of a program that said so, or "refused".
func who(o outcome) string {
	if o.refused != "" {
		return "refused"
	}
	s := status(o.log)
	uid, _, _ := strings.Cut(s["Uid"], "\t")
	gid, _, _ := strings.Cut(s["Gid"], "\t")
	return uid + ":" + gid
}

// The accounts of a root are text that somebody hostile has written: whatever they hold, a user is the one that is named there,
// or none; and nobody becomes root by a line that is wrong.
func TestHostileAccounts(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	root := g.freshRoot("accounts")
	g.make("c", root, id, "rootfs.mode", "ro")
	for _, c := range []struct{ passwd, group, user, want string }{
		{"bob:x:1000:1001::/:\n", "", "bob", "1000:1001"},
		{"4242:x:0:0::/:\n", "", "4242", "4242:0"},
		{"4242:x:7:7::/:\n", "4243:x:0:\n", "4242:4243", "4242:4243"},
		{"bob:x:1000:1001::/:\nbob:x:0:0::/:\n", "", "bob", "1000:1001"},
		{"toor:x:0:0::/:\nbob:x:1000:1001::/:\n", "", "bob", "1000:1001"},
		{"bob:x:1000:1001::/:\n", "adm:x:0:\nadm:x:4:\n", "bob:adm", "1000:0"},
		{"bob:x:4294967295:1::/:\n", "", "bob", "refused"},
		{"bob:x:4294967296:1::/:\n", "", "bob", "refused"},
		{"bob:x:18446744073709551616:1::/:\n", "", "bob", "refused"},
		{"bob:x:-1:1::/:\n", "", "bob", "refused"},
		{"bob:x:1000:4294967296::/:\n", "", "bob", "refused"},
		{"bob:x:1000:1::/:\n", "adm:x:4294967296:\n", "bob:adm", "refused"},
		{"bob:x:0x3e8:1::/:\n", "", "bob", "refused"},
		{"bob:x::1::/:\n", "", "bob", "refused"},
		{"bob:x\n", "", "bob", "refused"},
		{"bob\n", "", "bob", "refused"},
		{"bob:x:1000:abc::/:\n", "", "bob", "refused"},
		{"bob:x:1000:1::/:\n", "adm:x:\n", "bob:adm", "refused"},
		{"bob:x:1000:1::/:\n", "adm:x:y:\n", "bob:adm", "refused"},
		{"bob:x:1e3:1::/:\n", "", "bob", "refused"},
		{"\x00bob:x:0:0::/:\n", "", "bob", "refused"},
		{"#bob:x:0:0::/:\n", "", "bob", "refused"},
		{"+bob:x:0:0::/:\n-bob:x:0:0::\n+::::::\n", "", "bob", "refused"},
		{strings.Repeat("x", 5<<20) + "\nbob:x:1000:1::/:\n", "", "bob", "refused"},
		{strings.Repeat("x:x:5:5::/:\n", 1<<19) + "bob:x:1000:1::/:\n", "", "bob", "refused"},
	} {
		must(t, os.WriteFile(root+"/etc/passwd", []byte(c.passwd), 0o644))
		must(t, os.WriteFile(root+"/etc/group", []byte(c.group), 0o644))
		g.Write("c/user", c.user)
		if o := g.try("c"); who(o) != c.want {
			t.Errorf("user %s with %.60q and %.40q is %s, wanted %s: %v", c.user, c.passwd, c.group, who(o), c.want, o)
		}
	}
	// A number is no name, and needs no account.
	for _, user := range []string{"1000", "1000:1001", "65535:65535"} {
		must(t, os.WriteFile(root+"/etc/passwd", []byte("1000:x:0:0::/:\n65535:x:0:0::/:\n"), 0o644))
		g.Write("c/user", user)
		want := user
		if !strings.Contains(user, ":") {
			want += ":0"
		}
		if o := g.try("c"); who(o) != want {
			t.Errorf("user %s is %s: %v", user, who(o), o)
		}
	}
}

// What is no file of accounts, or one without an end, is refused at once, and costs the server no memory.
func TestEndlessAccounts(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	root := g.freshRoot("endless")
	g.make("c", root, id, "rootfs.mode", "ro")
	link := func(to string) func(string) error { return func(path string) error { return os.Symlink(to, path) } }
	traps := map[string]func(path string) error{
		"1 GB": func(path string) error {
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(path, 1<<30)
		},
		"FIFO":      func(path string) error { return unix.Mkfifo(path, 0o644) },
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
		"zeros":     func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		"socket":    func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o644, 0) },
		"/dev/zero": link("/dev/zero"), "/dev/stdin": link("/dev/stdin"), "loop": link("passwd"),
		"host": link("/proc/1/root" + g.canary + "/accounts"), "outside": link(strings.Repeat("../", 20) + g.canary[1:] + "/accounts"),
		"memory": link("/proc/self/mem"), "kmsg": link("/proc/kmsg"),
	}
	for n := 0; n < 64; n++ {
		traps[fmt.Sprint("descriptor ", n)] = link(fmt.Sprintf("/proc/self/fd/%d", n))
	}
	server := g.processes()["server"]
	before, err := test.RSS(server)
	must(t, err)
	for _, file := range []string{"passwd", "group"} {
		must(t, os.WriteFile(root+"/etc/passwd", []byte("bob:x:1000:1000::/:\n"), 0o644))
		must(t, os.WriteFile(root+"/etc/group", []byte("staff:x:50:\n"), 0o644))
		for name, trap := range traps {
			must(t, os.Remove(root+"/etc/"+file))
			must(t, trap(root+"/etc/"+file))
			for _, user := range []string{"bob", "bob:staff", "1000", "1000:staff"} {
				g.Write("c/user", user)
				begun := time.Now()
				o := g.try("c")
				// A number needs no account, a user without further groups no group file, and a link to nothing is no file.
				sound := map[string]string{"passwd 1000": "1000:0", "passwd 1000:staff": "1000:50", "group bob": "1000:1000", "group 1000": "1000:1000"}
				if got := who(o); got != "refused" && got != sound[file+" "+user] {
					t.Errorf("%s as %s: %s is %v", name, file, user, o)
				}
				if took := time.Since(begun); took > 2*time.Second {
					t.Errorf("%s as %s: %s took %v", name, file, user, took)
				}
			}
		}
		must(t, os.RemoveAll(root+"/etc/"+file))
	}
	after, err := test.RSS(server)
	must(t, err)
	if grown := after - before; grown > 24<<20 && !strings.HasSuffix(g.Binary, ".race") {
		t.Errorf("the server has grown by %d bytes", grown)
	}
}
