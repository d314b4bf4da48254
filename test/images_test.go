package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// busyboxImage makes a layout of a busybox root and a layer above that changes, hides and replaces some of it.
func busyboxImage(t testing.TB) string {
	t.Helper()
	base, above := t.TempDir(), t.TempDir()
	Require(t, BusyboxRoot(base))
	script := `set -e
mkdir -p base/srv/old base/srv/kept base/opt; echo one > base/srv/old/a; echo one > base/srv/kept/a; echo gone > base/opt/gone; echo first > base/opt/file
chmod 1777 base/tmp; chown 7:8 base/srv/kept/a; chmod 4711 base/srv/kept/a; ln base/srv/kept/a base/srv/kept/hard; ln -s ../opt/file base/srv/link
cp base/bin/busybox base/srv/kept/capable; setcap cap_net_raw+ep base/srv/kept/capable; setfattr -n user.note -v here base/opt/file; touch -d @1000000000.123456789 base/opt/file
mkdir -p above/srv/old above/opt; echo two > above/srv/old/b; : > above/srv/old/.wh..wh..opq; : > above/opt/.wh.gone; echo second > above/opt/file`
	Tool(t, "sh", "-c", strings.NewReplacer("base/", base+"/", "above/", above+"/").Replace(script))
	return Layout(t, []string{base, above}, "--config.entrypoint", "/bin/sh", "--config.entrypoint", "-c", "--config.cmd", "echo $GREETING; pwd; id -u",
		"--config.env", "GREETING=hello", "--config.env", "PATH=/bin", "--config.workingdir", "/srv", "--config.user", "nobody",
		"--config.stopsignal", "SIGINT", "--author", "ctrfs")
}

// imageReady waits for an image, which must be ready then.
func (m *Tree) imageReady(name string) {
	m.T.Helper()
	if got := m.Sh("cat images/%s/wait", name); got != "ready\n" {
		m.T.Fatalf("image %s is %s: %s", name, strings.TrimSpace(got), m.Sh("cat images/%s/error", name))
	}
}

// TestImagePull: an image comes out of a registry as it went in, and what it says of its program holds.
func TestImagePull(t *testing.T) {
	r := StartRegistry(t)
	layout := busyboxImage(t)
	ref := r.Push(layout, "busybox:1")
	m := MountFor(t)
	m.Sh("mkdir images/bb; echo %s > images/bb/pull", ref)
	m.imageReady("bb")
	id := strings.TrimSpace(Tool(t, "skopeo", "inspect", "--raw", "--config", "--tls-verify=false", "docker://"+ref))
	if got := m.Sh("cat images/bb/config"); strings.TrimSpace(got) != id {
		t.Errorf("the configuration is %s, in the registry it is %s", got, id)
	}
	digest := strings.TrimSpace(Tool(t, "skopeo", "inspect", "--format", "{{.Digest}}", "--tls-verify=false", "docker://"+ref))
	if got := m.Sh("cat images/bb/digest images/bb/state images/bb/progress images/bb/error images/bb/used_by; wc -l < images/bb/layers"); got != digest+"\nready\n2\n" {
		t.Errorf("the registry has %s; here is %s", digest, got)
	}
	if got := m.Sh("mkdir c; echo bb > c/image; cat c/rootfs c/cwd c/user c/stop.signal c/cmd; echo 1 > c/start; cat c/wait c/log images/bb/used_by"); got !=
		"\n/srv\nnobody\nINT\n/bin/sh -c 'echo $GREETING; pwd; id -u'\n0\nhello\n/srv\n65534\nc\n" {
		t.Errorf("a container of it says %q, error %s", got, m.Sh("cat c/error"))
	}
	if got := m.Sh(`echo 'find /srv /opt' > c/cmd; echo 0 > c/user; echo 1 > c/start; cat c/wait; sort c/log | xargs`); got !=
		"0\n/opt /opt/file /srv /srv/kept /srv/kept/a /srv/kept/capable /srv/kept/hard /srv/link /srv/old /srv/old/b\n" {
		t.Errorf("its layers together are %q", got)
	}
	if got := m.Sh(`echo 'stat -c "%%a %%u:%%g %%h" /srv/kept/a /tmp' > c/cmd; echo 1 > c/start; cat c/wait; cat c/log /srv/none 2> /dev/null; cat c/error`); got != "0\n4711 7:8 2\n1777 0:0 1\n" && !strings.HasPrefix(got, "0\n4711 7:8 2\n1777 0:0 ") {
		t.Errorf("modes and owners: %q", got)
	}
	m.refused("rmdir images/bb", "busy")
	if got := m.Sh("cat images/bb/error; rmdir c; rmdir images/bb; ls images"); !strings.HasPrefix(got, "rmdir images/bb: it is the image of c;") || strings.Count(got, "\n") != 1 {
		t.Errorf("removing it: %q", got)
	}
	m.empty()
}

// refused runs shell text that must fail, and say that.
func (m *Tree) refused(script, want string) {
	m.T.Helper()
	sh := m.Shell("bash")
	defer sh.Close()
	out, status, err := sh.Run("LC_ALL=C "+script, patience)
	if err != nil || status == 0 || !strings.Contains(out, want) {
		m.T.Errorf("%s\nerror %v, exit status %d, printed\n%s\nwant %q in it", script, err, status, out, want)
	}
}

// TestImageTree: what is unpacked equals what umoci unpacks: names, kinds, modes, owners, links, times, attributes and contents.
func TestImageTree(t *testing.T) {
	RequirePrograms(t, "umoci", "getfattr", "getcap")
	layout := busyboxImage(t)
	bundle := t.TempDir() + "/bundle"
	Tool(t, "umoci", "unpack", "--image", layout+":latest", bundle)
	m := MountFor(t)
	Tool(t, "tar", "-C", layout, "-cf", m.Tmp+"/layout.tar", ".")
	m.Sh("mkdir images/bb; cat %s > images/bb/tar", m.Tmp+"/layout.tar")
	m.imageReady("bb")
	m.Sh("mkdir c; echo bb > c/image; echo 'user host' > c/namespaces; echo ro > c/rootfs.mode; echo 0 > c/user; echo 'sleep 1000' > c/cmd; echo 0 > c/stop.timeout; echo 1 > c/start")
	root := "/proc/" + strings.TrimSpace(m.Sh("cat c/pid")) + "/root"
	// What a start mounts upon is made by the start, in both.
	list := `cd "$1"; find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev \) -prune -o ! -name . ! -type d -printf '%p %y %m %U:%G %n %s %T@ %l\n' -o -type d -printf '%p %y %m %U:%G %T@\n' | sort
find . -xdev -type f ! -path './dev/*' -exec sha256sum {} + | sort; getfattr -R -h -d -m - . 2> /dev/null | grep -v '^#' | sort | uniq -c; getcap -r . | sort`
	want, have := Tool(t, "sh", "-c", list, "sh", bundle+"/rootfs"), Tool(t, "sh", "-c", list, "sh", root)
	if want != have {
		os.WriteFile(m.Tmp+"/want", []byte(want), 0o600)
		os.WriteFile(m.Tmp+"/have", []byte(have), 0o600)
		diff, _ := exec.Command("diff", "-u", m.Tmp+"/want", m.Tmp+"/have").Output()
		t.Errorf("umoci's tree and this one:\n%s", diff)
	}
}

// TestImageElsewhere: what is committed here runs in podman, and what podman or skopeo saves runs here.
func TestImageElsewhere(t *testing.T) {
	RequirePrograms(t, "podman")
	m := MountFor(t)
	Tool(t, "tar", "-C", busyboxImage(t), "-cf", m.Tmp+"/layout.tar", ".")
	m.Sh("mkdir images/bb; cat %s/layout.tar > images/bb/tar", m.Tmp)
	m.imageReady("bb")
	m.Sh(`mkdir c; echo bb > c/image; echo 0 > c/user; echo 'sh -c "echo mine > /srv/mine; rm /opt/file; rm -r /srv/old; mkdir /srv/old; chmod 700 /opt"' > c/cmd; echo 1 > c/start; [ $(cat c/wait) = 0 ]`)
	m.Sh(`echo 'cat /srv/mine' > c/cmd; echo /tmp > c/cwd; echo made > c/commit`)
	m.imageReady("made")
	if got := m.Sh("wc -l < images/made/layers; mkdir d; echo made > d/image; cat d/cmd d/cwd; echo 1 > d/start; cat d/wait d/log; ls images"); got != "3\ncat /srv/mine\n/tmp\n0\nmine\nbb\nmade\n" {
		t.Errorf("a container of the commit says %q", got)
	}
	if got := m.Sh("echo 'find /srv/old /opt /srv/mine' > d/cmd; echo 1 > d/start; cat d/wait; xargs < d/log"); got != "0\n/srv/old /opt /srv/mine\n" {
		t.Errorf("in the commit is %q", got)
	}
	m.Sh("cp images/made/tar %s/made.tar; [ $(stat -c %%s images/made/tar) = $(stat -c %%s %s/made.tar) ]", m.Tmp, m.Tmp)
	id := strings.TrimPrefix(strings.TrimSpace(m.Sh("cat images/made/id")), "sha256:")
	podman := func(args ...string) string {
		return Tool(t, "podman", append([]string{"--root", m.Tmp + "/podman", "--runroot", m.Tmp + "/podman.run", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"}, args...)...)
	}
	t.Cleanup(func() {
		exec.Command("podman", "--root", m.Tmp+"/podman", "--runroot", m.Tmp+"/podman.run", "--storage-driver", "vfs", "rm", "-af").Run()
	})
	podman("load", "-q", "-i", m.Tmp+"/made.tar")
	if got := podman("images", "--no-trunc", "-q"); !strings.Contains(got, id) {
		t.Errorf("podman calls it %s, not %s", got, id)
	}
	if got := podman("run", "--rm", "--net", "none", "--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--log-driver", "none", id); got != "mine\n" {
		t.Errorf("podman run says %q", got)
	}
	podman("save", "-q", "--format", "docker-archive", "-o", m.Tmp+"/saved.tar", id)
	Tool(t, "skopeo", "--insecure-policy", "copy", "oci-archive:"+m.Tmp+"/made.tar", "docker-archive:"+m.Tmp+"/copied.tar:made:1")
	for _, file := range []string{"saved", "copied"} {
		m.Sh("mkdir images/%s; gzip -1 < %s/%s.tar > images/%s/tar", file, m.Tmp, file, file)
		m.imageReady(file)
		if got := strings.TrimSpace(m.Sh("cat images/%s/id", file)); got != "sha256:"+id {
			t.Errorf("%s: the id is %s, not %s", file, got, id)
		}
		if got := m.Sh("mkdir x; echo %s > x/image; echo 1 > x/start; cat x/wait x/log; rmdir x", file); got != "0\nmine\n" {
			t.Errorf("%s: its container says %q", file, got)
		}
	}
}

// TestImageMany: forty layers, and a Debian with a server in it.
func TestImageMany(t *testing.T) {
	r := StartRegistry(t)
	m := MountFor(t)
	layers := []string{t.TempDir()}
	Require(t, BusyboxRoot(layers[0]))
	for i := 1; i < 40; i++ {
		dir := t.TempDir()
		Tool(t, "sh", "-c", fmt.Sprintf("mkdir %s/etc; echo %d > %s/etc/count; echo %d > %s/etc/file%d", dir, i, dir, i, dir, i))
		layers = append(layers, dir)
	}
	m.Sh("mkdir images/many; echo %s > images/many/pull", r.Push(Layout(t, layers, "--config.cmd", "/bin/cat", "--config.cmd", "/etc/count"), "many:1"))
	m.imageReady("many")
	if got := m.Sh("wc -l < images/many/layers; mkdir c; echo many > c/image; echo 1 > c/start; cat c/wait c/log; echo 'sh -c \"ls /etc | wc -l\"' > c/cmd; echo 1 > c/start; cat c/wait c/log; rmdir c"); got != "40\n0\n39\n0\n41\n" {
		t.Errorf("forty layers: %q", got)
	}

	debian, err := DebianRoot()
	Require(t, err)
	dir := t.TempDir()
	Tool(t, "sh", "-c", fmt.Sprintf("cd %s; tar -cf - --exclude=usr/lib/x86_64-linux-gnu/libLLVM* --exclude=usr/lib/x86_64-linux-gnu/dri bin sbin lib lib64 etc usr/lib64 usr/bin usr/sbin usr/lib/x86_64-linux-gnu usr/share/nginx usr/lib/nginx var/lib/nginx var/www var/log | tar -C %s -xf -", debian, dir))
	Tool(t, "sh", "-c", fmt.Sprintf(`cd %s; mkdir -p tmp run; echo 'daemon off; events {} http { server { listen 8080; root /var/www; } }' > etc/nginx/nginx.conf; echo served > var/www/page`, dir))
	ref := r.Push(Layout(t, []string{dir}, "--config.cmd", "nginx"), "web:1", "--dest-compress-format", "zstd", "--dest-compress-level", "1")
	m.Sh("mkdir images/web; echo %s > images/web/pull; cat images/web/progress", ref)
	m.imageReady("web")
	if got := m.Sh("mkdir w; echo web > w/image; echo 1 > w/start || cat w/error"); got != "" {
		t.Fatal(got)
	}
	if got := m.Sh(`mkdir w/exec/x; echo 'perl -MIO::Socket::INET -e "my \$s; for (1..50) { \$s = IO::Socket::INET->new(q(127.0.0.1:8080)) and last; select undef, undef, undef, 0.1 } print \$s qq(GET /page HTTP/1.0\r\n\r\n); print <\$s>"' > w/exec/x/cmd; echo 1 > w/exec/x/start; cat w/exec/x/wait; tail -n 1 w/exec/x/log; cat w/state; echo 1 > w/stop; cat w/wait`); got != "0\nserved\nrunning\n0\n" {
		t.Errorf("nginx: %q, its log %s", got, m.Sh("cat w/log w/error"))
	}
}
