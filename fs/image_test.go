package fs

import (
	"testing"
	"time"
)

// TestImageTree: images is a directory of the root, in which mkdir makes images and nothing else is made.
func TestImageTree(t *testing.T) {
	m := mount(t)
	m.sh("stat -c '%a %F %h' images; ls -A images; [ $(stat -c %i images) = $(ls -di images | cut -d' ' -f1) ]", "755 directory 1\n")
	m.sh("mkdir images/b images/a; ls images; stat -c '%a %F' images/a; [ $(stat -c %i images/a) = $(ls -i images | grep a | cut -d' ' -f1) ]", "a\nb\n755 directory\n")
	m.fails("mkdir images", "File exists")
	m.fails("mkdir images/a", "File exists")
	m.fails("mkdir images/.x", "Invalid argument")
	m.fails("mkdir images/a/x", "not permitted")
	m.fails("mv images/a images/x", "not permitted")
	m.fails("mv images x", "not permitted")
	for _, script := range []string{"touch images/x", "ln -s a images/x", "mknod images/x p"} {
		m.fails(script, "not permitted")
	}
	m.fails("touch images/a/x", "denied")
	m.fails("rmdir images/none", "No such file")
	m.sh("rmdir images; chown 65534:65534 images/a; chmod 700 images/a; stat -c '%u %a' images/a images/a/pull; chmod 600 images/a/tar; stat -c %a images/a/tar", "65534 700\n65534 200\n600\n")
	m.sh("cat images/a/state images/a/wait images/a/id images/a/layers images/a/tar 2>&1; stat -c %s images/a/tar images/a/id", "empty\nempty\ncat: images/a/tar: No such file or directory\n0\n0\n")
	m.sh("rmdir images/a; rm -r images/b; ls images", "")
}

// TestImageFiles: what is read of an image with content, and of one that is on its way.
func TestImageFiles(t *testing.T) {
	m := mount(t)
	m.sh("mkdir images/a; echo r:1 > images/a/pull; cat images/a/state images/a/progress images/a/reference; stat -c %s images/a/wait", "pulling\nbytes 12\nr:1\n8\n")
	m.fails("echo x > images/a/tar", "busy")
	done := make(chan string)
	go func() {
		text, _ := m.run("sh", "cat images/a/wait")
		done <- text
	}()
	time.Sleep(50 * time.Millisecond)
	i, _ := m.Image("a")
	i.(*memImage).finish("archive")
	if got := <-done; got != "ready\n" {
		t.Errorf("wait said %q", got)
	}
	m.sh("cd images/a; cat state id digest layers size config created progress error notes used_by; stat -c %s tar wait; cat tar", "ready\nsha256:1\nsha256:2\nsha256:3\nsha256:4\n12\n{}\n1970-01-01T00:00:00Z\n7\n6\narchive")
	m.fails("echo > images/a/pull", "Invalid argument")
	m.sh("cat images/a/error", "write pull: not a reference; write one\n")
}

// TestImageTar: an archive is what is written from open to close, in order; an open alone, and a truncation, is none.
func TestImageTar(t *testing.T) {
	m := mount(t)
	m.sh("mkdir images/a; : > images/a/tar; cat images/a/state; head -c 3000000 /dev/zero | tr '\\0' x | cat > images/a/tar; cat images/a/wait; stat -c %s images/a/tar; cat images/a/tar | wc -c; tr -d x < images/a/tar | wc -c",
		"empty\nready\n3000000\n3000000\n0\n")
	m.sh("{ echo one; echo two; } > images/a/tar; cat images/a/wait images/a/tar", "ready\none\ntwo\n")
	m.sh("busybox cat images/a/tar; cp images/a/tar /dev/stdout; dd if=images/a/tar bs=1 skip=4 2> /dev/null", "one\ntwo\none\ntwo\ntwo\n")
	m.fails("echo x | dd of=images/a/tar bs=1 seek=3 conv=notrunc", "Invalid argument")
	m.sh("cat images/a/error images/a/tar", "write tar: written at another place than the end of what came before; write it from the beginning, in order: cat FILE > tar\none\ntwo\n")
	m.fails("echo bad > images/a/tar", "Invalid argument")
}

// TestImageCommit: the name goes to the engine; what is no name is refused.
func TestImageCommit(t *testing.T) {
	m := created(t)
	m.sh("echo cmd > c/cmd; echo x > c/commit; cat images/x/wait images/x/tar", "ready\ncmd")
	m.fails("echo 'a b' > c/commit", "Invalid argument")
}

// TestImageSetting: an image takes the place of a root, and a root that of an image.
func TestImageSetting(t *testing.T) {
	m := created(t)
	m.sh("cat c/image; echo deb > c/image; cat c/image c/rootfs; echo /srv > c/rootfs; cat c/image c/rootfs", "\ndeb\n\n\n/srv\n")
	m.sh("echo deb > c/image; echo > c/image; cat c/image c/rootfs; echo deb > c/image; echo > c/rootfs; cat c/image c/rootfs; echo deb > c/image; rm c/image; cat c/rootfs", "\nhost\n\nhost\nhost\n")
	m.fails("echo a/b > c/image", "Invalid argument")
	m.sh("echo deb > c/image; mkdir d; cp c/config.json d/config.json; cat d/image d/rootfs; grep image d/status", "deb\n\nimage deb\n")
	m.fails("echo rw > c/rootfs.mode", "Invalid argument")
}
