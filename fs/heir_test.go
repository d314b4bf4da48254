package fs

import (
	"bytes"
	"encoding/binary"
	"maps"
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func TestLedger(t *testing.T) {
	var l ledger
	var out bytes.Buffer
	l.set(1, entry{id: "before"})
	l.set(2, entry{id: "closed before"})
	if l.drop(2) {
		t.Error("the last one is closed, and one is open")
	}
	l.handOver(&out)
	l.set(3, entry{id: "later"})
	l.set(4, entry{id: "closed"})
	l.set(3, entry{"later", "137\n"})
	l.drop(4)
	want := map[uint64]entry{1: {id: "before"}, 3: {"later", "137\n"}}
	if got := parseLedger(out.Bytes()); !maps.Equal(got, want) {
		t.Errorf("%q reads as %v, wanted %v", out.String(), got, want)
	}
	if got := parseLedger(append(out.Bytes(), "5 cut"...)); !maps.Equal(got, want) {
		t.Errorf("with a cut line it reads as %v", got)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Write(out.Bytes()) // after which it stands at its end
	read, err := readLedger(f)
	if err != nil || !maps.Equal(read.open, want) {
		t.Errorf("from a file came %v (%v)", read.open, err)
	}
	l.drop(1)
	if !l.drop(3) || !l.empty() {
		t.Error("there is still one open")
	}
}

func FuzzLedger(f *testing.F) {
	f.Add([]byte("7 abc\n7 abc 137\n8 def\n8\n"))
	f.Add([]byte("-1 x\n18446744073709551616 y\n\n5 a b c d\n6 cut"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l := ledger{open: parseLedger(text)}
		var out bytes.Buffer
		l.handOver(&out)
		if again := parseLedger(out.Bytes()); !maps.Equal(again, l.open) {
			t.Errorf("%v was written as %q, which reads as %v", l.open, out.String(), again)
		}
	})
}

// kernelSends makes a request as the kernel would.
func kernelSends(t testing.TB, in any) []byte {
	t.Helper()
	b, err := binary.Append(nil, binary.NativeEndian, in)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseRequest(t *testing.T) {
	head := func(op uint32) fuse.InHeader { return fuse.InHeader{Opcode: op, Unique: 6} }
	for _, c := range []struct {
		in   any
		want request
	}{
		{&fuse.ReadIn{InHeader: head(opRead), Fh: 3, Offset: 2, Size: 100, ReadFlags: fuse.READ_LOCKOWNER}, request{op: opRead, unique: 6, handle: 3, off: 2, size: 100}},
		{&fuse.ReadIn{InHeader: head(opRead), Fh: 3}, request{op: opRead, unique: 6, handle: 3, page: true}},
		{&fuse.ReleaseIn{InHeader: head(opRelease), Fh: 3}, request{op: opRelease, unique: 6, handle: 3}},
		{&fuse.InterruptIn{InHeader: head(opInterrupt), Unique: 8}, request{op: opInterrupt, unique: 6, other: 8}},
		{&fuse.OpenIn{InHeader: head(14)}, request{op: 14, unique: 6}},
	} {
		if got, err := parseRequest(kernelSends(t, c.in)); err != nil || got != c.want {
			t.Errorf("got %+v (%v), wanted %+v", got, err, c.want)
		}
	}
	if _, err := parseRequest(make([]byte, 8)); err == nil {
		t.Error("half a head is taken")
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(kernelSends(f, &fuse.ReadIn{InHeader: fuse.InHeader{Opcode: opRead}, Offset: 1 << 63, Size: 1 << 31}), "137\n")
	f.Add(kernelSends(f, &fuse.InterruptIn{InHeader: fuse.InHeader{Opcode: opInterrupt}})[:44], "")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		r, err := parseRequest(b)
		if part := r.section(text); err == nil && len(part) > r.size {
			t.Errorf("%+v gets %d bytes", r, len(part))
		}
	})
}
