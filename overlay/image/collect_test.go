package image

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ctrfs/ctrfs/engine"
)

// TestCollect deletes what nobody needs: images first, and of their layers those that no other image has.
func TestCollect(t *testing.T) {
	_, host := newLiar(t)
	shared := layer(t, "shared", "s")
	push(t, host+"/one", build(t, shared, layer(t, "one", "1")))
	push(t, host+"/two", build(t, shared, layer(t, "two", "2")))
	s := newStore(t)
	one, two := pull(t, s, host+"/one"), pull(t, s, host+"/two")
	want := func(images, layers int) {
		t.Helper()
		if err := s.Collect(nil); err != nil {
			t.Fatal(err)
		}
		if i, l := len(names(t, s, objectsDir)), len(names(t, s, layersDir)); i != images || l != layers {
			t.Errorf("%d images and %d layers are left, want %d and %d", i, l, images, layers)
		}
	}
	want(2, 3) // held
	if err := s.Create(Entry{Name: "one", State: Ready, ID: one.ID}); err != nil {
		t.Fatal(err)
	}
	one.Release()
	one.Release()
	want(2, 3)
	two.Release()
	if err := s.Collect(func(id string) bool { return id == two.ID }); err != nil || len(names(t, s, objectsDir)) != 2 {
		t.Fatal(err)
	}
	want(1, 2)
	if _, err := s.Hold(two.ID); engine.Errno(err) != syscall.ENOENT {
		t.Errorf("got %v", err)
	}
	again, err := s.Hold(one.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("one"); err != nil {
		t.Fatal(err)
	}
	want(1, 2)
	again.Release()
	want(0, 0)
	wantTidy(t, s)
	pull(t, s, host+"/one")
}

// TestCollectWhilePulling: what is being pulled keeps its layers, whatever is collected meanwhile.
func TestCollectWhilePulling(t *testing.T) {
	_, host := newLiar(t)
	for i := range 4 {
		push(t, fmt.Sprint(host, "/i", i), build(t, layer(t, "shared", noise(20_000, 1)), layer(t, "f", noise(20_000, uint64(i%2))), layer(t, "own", fmt.Sprint(i))))
	}
	s := newStore(t)
	var stop atomic.Bool
	var collector, pullers sync.WaitGroup
	collector.Go(func() {
		for !stop.Load() {
			if err := s.Collect(nil); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 4 {
		pullers.Go(func() {
			for range 5 {
				h, err := s.Pull(t.Context(), fmt.Sprint(host, "/i", i), Auth{}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				wantFile(t, h.Layers[0], "shared", noise(20_000, 1))
				wantFile(t, h.Layers[1], "f", noise(20_000, uint64(i%2)))
				wantFile(t, h.Layers[2], "own", fmt.Sprint(i))
				h.Release()
			}
		})
	}
	pullers.Wait()
	stop.Store(true)
	collector.Wait()
	if err := s.Collect(nil); err != nil || len(names(t, s, layersDir)) != 0 || len(s.holds) != 0 || len(s.busy) != 0 {
		t.Errorf("left: %v, held %v, %v", names(t, s, layersDir), s.holds, err)
	}
	wantTidy(t, s)
}

// TestEntries: a record is kept whole, and what was under way when the server died has failed.
func TestEntries(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	for _, state := range []string{Empty, Pulling, Unpacking, Failed} {
		e := Entry{Name: state, State: state, Owner: engine.Owner{UID: 7, Mode: 0o750}, Owners: map[string]engine.Owner{"pull": {UID: 8}}}
		if err := s.Create(e); err != nil {
			t.Fatal(err)
		}
		wantErrno(t, s.Create(e), syscall.EEXIST)
	}
	for _, bad := range []string{"", ".", "..", "a/b", ".x"} {
		wantErrno(t, s.Create(Entry{Name: bad}), syscall.EINVAL)
	}
	wantErrno(t, s.Save(Entry{Name: "none"}), syscall.ENOENT)
	wantErrno(t, s.Remove("none"), syscall.ENOENT)
	s.Close()
	os.WriteFile(s.entryPath("broken"), []byte(`{"name":"bro`), 0o600)
	os.WriteFile(s.entryPath("other"), []byte(`{"name":"../../x","state":"ready"}`), 0o600)
	for range 2 {
		s = openStore(t, dir)
		var got []string
		for _, e := range s.Entries() {
			got = append(got, e.Name+" "+e.State)
		}
		want := []string{"broken failed", "empty empty", "failed failed", "other failed", "pulling failed", "unpacking failed"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		e, _ := s.Entry("pulling")
		if e.Error != "interrupted: try again" || e.Owner.UID != 7 || e.Owners["pull"].UID != 8 {
			t.Errorf("got %+v", e)
		}
		s.Close()
	}
	if err := s.Remove("broken"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.entryPath("broken")); err == nil {
		t.Error("the entry is still there")
	}
}
