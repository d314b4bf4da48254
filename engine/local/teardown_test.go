package local

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/overlay"
)

// rootOfPipe is a root of one descriptor, and what reads io.EOF once it is closed.
func rootOfPipe(t *testing.T) (*overlay.Root, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return &overlay.Root{Mounts: []overlay.Mount{{File: w, Target: "/"}}}, r
}

// closedWithin reports whether the root of a pipe is closed by then.
func closedWithin(t *testing.T, r *os.File, d time.Duration) bool {
	t.Helper()
	r.SetReadDeadline(time.Now().Add(d))
	_, err := r.Read(make([]byte, 1))
	if err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return err == io.EOF
}

// TestTeardown: roots are closed in a lull, or when there has been none for long, or when somebody asks.
func TestTeardown(t *testing.T) {
	var down teardown
	root, ends := rootOfPipe(t)
	down.later(root)
	if closedWithin(t, ends, lull/4) {
		t.Error("it did not wait for the lull")
	}
	if !closedWithin(t, ends, 50*lull) {
		t.Error("the lull has not closed it")
	}

	root, ends = rootOfPipe(t)
	down.later(root)
	for end := time.Now().Add(lullLimit + 5*lull); time.Now().Before(end); time.Sleep(lull / 4) {
		r, _ := rootOfPipe(t)
		down.later(r)
	}
	if !closedWithin(t, ends, lull/4) {
		t.Error("without a lull nothing is closed")
	}

	root, ends = rootOfPipe(t)
	down.later(root).now()
	if !closedWithin(t, ends, lull/4) {
		t.Error("now it is not closed")
	}

	root, ends = rootOfPipe(t)
	x := down.later(root)
	down.flush()
	if !closedWithin(t, ends, lull/4) {
		t.Error("the flush has left it")
	}
	x.now() // once more is nothing
}
