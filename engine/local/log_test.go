package local

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// trimmed makes a log of numbered lines of ten bytes each, of which the first bytes are taken out.
func trimmed(t *testing.T, lines int, cut int64) (name, text string) {
	t.Helper()
	var b strings.Builder
	for i := range lines {
		fmt.Fprintf(&b, "%9d\n", i)
	}
	name = t.TempDir() + "/log"
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	punch(t, name, cut)
	return name, b.String()
}

func punch(t *testing.T, name string, cut int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if cut == 0 {
		return
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, cut); err != nil {
		t.Skip("no holes here: ", err)
	}
}

// TestLogReader: readers of every kind, on a log of which nothing, little, and nearly all is gone.
func TestLogReader(t *testing.T) {
	for _, cut := range []int64{0, 4096, 8192, 94208} {
		name, text := trimmed(t, 10000, cut)
		kept := text[(cut+9)/10*10:]
		size := int64(len(text))

		l := &logReader{name: name}
		got, err := io.ReadAll(io.NewSectionReader(l, 0, size))
		if err != nil || string(got) != kept {
			t.Errorf("cut %d: from the beginning %d bytes, error %v; wanted %d", cut, len(got), err, len(kept))
		}
		b := make([]byte, 20)
		if n, _ := l.ReadAt(b, size-20); string(b[:n]) != text[size-20:] { // as a pager goes to the end
			t.Errorf("cut %d: then at the end: %q", cut, b[:n])
		}
		if n, _ := l.ReadAt(b, 0); string(b[:n]) != kept[:20] {
			t.Errorf("cut %d: then at the beginning again: %q", cut, b[:n])
		}

		switch n, err := l.ReadPage(b, size-20); {
		case cut == 0 && (err != nil || string(b[:n]) != text[size-20:]):
			t.Errorf("a page: %q, error %v", b[:n], err)
		case cut > 0 && err != unix.EINVAL:
			t.Errorf("cut %d: a page: %q, error %v", cut, b[:n], err)
		}

		l = &logReader{name: name}
		if n, _ := l.ReadAt(b, size-1000); string(b[:n]) != text[size-1000:size-980] { // as tail does
			t.Errorf("cut %d: near the end: %q", cut, b[:n])
		}
		punch(t, name, 96<<10)
		more := make([]byte, 2000)
		n, err := l.ReadAt(more, size-980)
		if want := text[size-980:]; string(more[:n]) != want || err != io.EOF {
			t.Errorf("cut %d: on from there: %q, error %v", cut, more[:n], err)
		}
	}
}

// TestLogReaderLate: a reader whose place is gone goes on with what is kept, and a new log is read from its own beginning.
func TestLogReaderLate(t *testing.T) {
	name, text := trimmed(t, 10000, 0)
	l := &logReader{name: name}
	b := make([]byte, 100)
	if n, err := l.ReadAt(b, 0); n != 100 || err != nil {
		t.Fatal(n, err)
	}
	punch(t, name, 8192)
	rest, err := io.ReadAll(io.NewSectionReader(l, 100, int64(len(text))))
	if err != nil || string(rest) != text[8200:] || bytes.ContainsRune(rest, 0) {
		t.Errorf("%d bytes, error %v, wanted %d", len(rest), err, len(text)-8200)
	}
	if err := os.WriteFile(name+fresh, []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+fresh, name); err != nil {
		t.Fatal(err)
	}
	if n, _ := l.ReadAt(b, 0); string(b[:n]) != "another\n" {
		t.Errorf("a new log: %q", b[:n])
	}
	if n, err := l.ReadAt(b, 50); n != 0 || err != io.EOF {
		t.Errorf("beyond it: %d, %v", n, err)
	}
}

// TestLogLongLine: where no line begins within reach, reading begins somewhere in one.
func TestLogLongLine(t *testing.T) {
	name := t.TempDir() + "/log"
	if err := os.WriteFile(name, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	punch(t, name, 512<<10)
	got, err := io.ReadAll(io.NewSectionReader(&logReader{name: name}, 0, 1<<20))
	if err != nil || len(got) != 512<<10 || bytes.ContainsRune(got, 0) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
}

// TestLogPauses: the faster a log grows, the sooner it is looked at.
func TestLogPauses(t *testing.T) {
	const limit = 1 << 20
	pause := logPauseMin
	for range 20 {
		pause = nextPause(pause, 0, limit)
	}
	if pause != logPauseMax {
		t.Errorf("of one that rests %v", pause)
	}
	if again := nextPause(pause, limit/6, limit); again != pause {
		t.Errorf("of one that grows by a sixth in that time %v", again)
	}
	for range 20 {
		pause = nextPause(pause, limit, limit)
	}
	if pause != logPauseMin || pause > 20*time.Millisecond {
		t.Errorf("of one that grows fast %v", pause)
	}
}

// TestLogCut: what is left is within the limit, is not nothing, and with room for pages is most of it.
func TestLogCut(t *testing.T) {
	for _, limit := range []int64{4096, 5000, 64 << 10, 16 << 20} {
		for size := limit + 1; size < limit+40000; size += 7 {
			cut := cutAt(size, limit)
			left := size - cut
			if cut%pageAlign != 0 || left > limit || left <= 0 || limit >= 64<<10 && left < limit/8*7-pageAlign {
				t.Fatalf("of %d bytes with a limit of %d, %d are left", size, limit, left)
			}
		}
	}
}
