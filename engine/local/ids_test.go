package local

import (
	"os"
	"path/filepath"
	"testing"
)

func claimsFile(t *testing.T) string { return filepath.Join(t.TempDir(), "claims") }

// openRanges is what one ctrfs has; each call is another open file, as of another keeper.
func openRanges(t *testing.T, file string, kept ...uint32) (*ranges, []uint32) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return rangesOn(t, f, kept...)
}

func rangesOn(t *testing.T, f *os.File, kept ...uint32) (*ranges, []uint32) {
	t.Helper()
	m := map[uint32]bool{}
	for _, k := range kept {
		m[k] = true
	}
	var lost []uint32
	r, err := newRanges(f, m, func(first uint32) { lost = append(lost, first) })
	if err != nil {
		t.Fatal(err)
	}
	return r, lost
}

// TestRangesAreNobodyElses: two ctrfs that have only four ranges between them never have the same one, and get all four.
func TestRangesAreNobodyElses(t *testing.T) {
	file := claimsFile(t)
	a, _ := openRanges(t, file)
	b, _ := openRanges(t, file)
	a.spans = []span{{rangeSize * 10, 4 * rangeSize}}
	b.spans = a.spans
	seen := map[uint32]bool{}
	for i := range 4 {
		first, err := []*ranges{a, b}[i%2].take()
		if err != nil || seen[first] || first%rangeSize != 0 {
			t.Fatalf("%d: %v, seen %v", first, err, seen)
		}
		seen[first] = true
	}
	if first, err := a.take(); err == nil {
		t.Errorf("a fifth range: %d", first)
	}
	for first := range seen {
		a.give(first)
		b.give(first)
	}
	if _, err := b.take(); err != nil {
		t.Errorf("after all were given back: %v", err)
	}
}

// TestRangesSurviveTheServer: with the keeper's open file the next server keeps what containers have, and frees the rest.
func TestRangesSurviveTheServer(t *testing.T) {
	file := claimsFile(t)
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	first, _ := rangesOn(t, f)
	kept, err := first.take()
	if err != nil {
		t.Fatal(err)
	}
	stock, err := first.take()
	if err != nil {
		t.Fatal(err)
	}
	if _, lost := rangesOn(t, f, kept); len(lost) > 0 {
		t.Errorf("lost %v", lost)
	}
	// Another ctrfs asks: a record that names a range which is held has lost it.
	if _, lost := openRanges(t, file, kept, stock); len(lost) != 1 || lost[0] != kept {
		t.Errorf("another one lost %v, want %d alone", lost, kept)
	}
}

func TestSubids(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, c := range []struct {
		uid, gid string
		want     []span
	}{
		{"", "", []span{{defaultFirst, defaultCount}}},
		{"other:100000:65536\n", "other:100000:65536\n", []span{{defaultFirst, defaultCount}}},
		{"ctrfs:131072:131072\n", "ctrfs:131072:131072\n", []span{{131072, 131072}}},
		{"ctrfs:100000:131072\n", "ctrfs:100000:131072\n", []span{{131072, 65536}}}, // whole ranges only
		{"ctrfs:131072:131072\n", "ctrfs:196608:131072\n", []span{{196608, 65536}}},
		{"ctrfs:131072:131072\n", "", nil},
		{"ctrfs:x:1\nctrfs:0:65536\nctrfs:4294901760:65536\nctrfs\nctrfs:1:2:3\n", "ctrfs:0:4294967295\n", []span{{defaultFirst, defaultCount}}}, // no line makes sense
	} {
		got, err := subids(write("uid", c.uid), write("gid", c.gid))
		if err != nil || len(got) != len(c.want) || len(got) > 0 && got[0] != c.want[0] {
			t.Errorf("%q and %q: %v (%v), want %v", c.uid, c.gid, got, err, c.want)
		}
	}
	if got, err := subids(dir+"/none", dir+"/none"); err != nil || len(got) != 1 {
		t.Errorf("without files: %v (%v)", got, err)
	}
}

func FuzzSubids(f *testing.F) {
	f.Add("ctrfs:131072:131072\n", "ctrfs:1:4294967294\n")
	f.Fuzz(func(t *testing.T, uid, gid string) {
		dir := t.TempDir()
		if os.WriteFile(dir+"/u", []byte(uid), 0o600) != nil || os.WriteFile(dir+"/g", []byte(gid), 0o600) != nil {
			t.Skip()
		}
		spans, err := subids(dir+"/u", dir+"/g")
		if err != nil {
			return // a line longer than any that makes sense
		}
		for _, s := range spans {
			if s.first == 0 || s.first%rangeSize != 0 || s.count%rangeSize != 0 || s.count == 0 || s.first+s.count > 1<<32-1 {
				t.Errorf("%+v of %q and %q", s, uid, gid)
			}
		}
	})
}
