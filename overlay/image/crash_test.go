package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrfs/ctrfs/engine/crash"
)

// childEnv makes a process of this test's binary one that uses a store, and may be killed for it: directory, registry, archive.
const childEnv = "CTRFS_TEST_IMAGES"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := life(strings.Split(text, "\n")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	before := openFiles()
	code := m.Run()
	after := openFiles()
	for range 50 { // connections of which the other end is gone
		if after = openFiles(); len(after) <= len(before)+made {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(after) > len(before)+made {
		fmt.Printf("FAIL: descriptors have leaked:\nbefore %v\nafter  %v\n", before, after)
		code = 1
	}
	os.Exit(code)
}

// made is how many descriptors the Go runtime makes once and keeps: of epoll, and of the group whose limits it looks at.
const made = 4

// openFiles lists what this process has open.
func openFiles() (all []string) {
	names, _ := os.ReadDir("/proc/self/fd")
	for _, n := range names {
		if to, err := os.Readlink("/proc/self/fd/" + n.Name()); err == nil {
			all = append(all, to)
		}
	}
	return all
}

// life does with a store all that can be done, and leaves one image in it.
func life(args []string) error {
	dir, host, archive := args[0], args[1], args[2]
	crash.Points(filepath.Dir(dir))
	s, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := liveIn(s, host, archive); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond) // for what is done in the background
	return nil
}

func liveIn(s *Store, host, archive string) error {
	ctx := context.Background()
	for _, name := range []string{"one", "two", "three", "four"} {
		if _, ok := s.Entry(name); !ok {
			if err := s.Create(Entry{Name: name, State: Empty}); err != nil {
				return err
			}
		}
		if err := s.Save(Entry{Name: name, State: Pulling}); err != nil {
			return err
		}
		var h *Held
		var err error
		switch name {
		case "three":
			var f *os.File
			if f, err = os.Open(archive); err != nil {
				return err
			}
			h, err = s.Import(ctx, f, nil)
			f.Close()
		case "four":
			one, _ := s.Entry("one")
			var base *Image
			if base, err = s.Image(one.ID); err != nil {
				return err
			}
			h, err = s.Commit(ctx, base, func(w io.Writer) error {
				_, err := w.Write(layer(new(testing.B), "committed", "x", "committed", "y"))
				return err
			}, nil, ocispec.History{}, nil)
		default:
			h, err = s.Pull(ctx, host+"/"+name, Auth{}, nil)
		}
		if err != nil {
			return err
		}
		if err := s.Save(Entry{Name: name, State: Ready, ID: h.ID}); err != nil {
			return err
		}
		h.Release()
	}
	for _, name := range []string{"two", "three", "four"} {
		if err := s.Remove(name); err != nil {
			return err
		}
		if err := s.Collect(nil); err != nil {
			return err
		}
	}
	return nil
}

// TestKilled kills a process that uses a store after every kind of step, and at any moment: what is there is whole, nothing else
// is, and everything can be done again.
func TestKilled(t *testing.T) {
	_, host := newLiar(t)
	push(t, host+"/one", build(t, layer(t, "shared", noise(300_000, 1)), layer(t, "one", noise(300_000, 2), "one", "twice")))
	push(t, host+"/two", build(t, layer(t, "shared", noise(300_000, 1)), layer(t, "two", noise(300_000, 3))))
	archive := write(t, "root.tar", layer(t, "bin/", "", "bin/sh", noise(300_000, 4)))
	child := filepath.Join(t.TempDir(), "child")
	need(t, "go")
	run(t, "go", "test", "-c", "-tags", "crashpoints", "-o", child, ".")
	// one runs the process, which is killed at the point at, or after some time, or not at all.
	one := func(t *testing.T, at string, after time.Duration) (dir string, passed []string) {
		state := t.TempDir()
		dir = filepath.Join(state, "images")
		orders := filepath.Join(state, "crashpoints")
		os.Mkdir(orders, 0o700)
		os.WriteFile(filepath.Join(orders, "passed"), nil, 0o600)
		if at != "" {
			os.WriteFile(filepath.Join(orders, "at"), []byte(at), 0o600)
		}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		defer cancel()
		cmd := exec.CommandContext(ctx, child)
		cmd.Env = append(os.Environ(), childEnv+"="+dir+"\n"+host+"\n"+archive)
		out, err := cmd.CombinedOutput()
		// How often there is something to sync depends on the time that it takes.
		if _, e := os.Stat(filepath.Join(orders, "hit")); (err != nil) != (e == nil || ctx.Err() != nil) || e != nil && at != "" && !strings.Contains(at, " sync ") {
			t.Fatalf("the process killed at %q ends with %v\n%s", at, err, out)
		}
		text, err := os.ReadFile(filepath.Join(orders, "passed"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			passed = append(passed, strings.TrimSpace(string(line)))
		}
		return dir, passed
	}
	dir, passed := one(t, "", time.Minute)
	wantWhole(t, dir, host, archive)
	points := map[string]int{}
	for _, name := range passed {
		points[name]++
	}
	if len(points) < 15 {
		t.Errorf("few points were passed: %v", points)
	}
	for name, times := range points {
		for _, n := range slices.Compact([]int{1, times}) {
			at := fmt.Sprint(n, " ", name)
			t.Run(strings.ReplaceAll(at, " ", "-"), func(t *testing.T) {
				t.Parallel()
				dir, _ := one(t, at, time.Minute)
				wantWhole(t, dir, host, archive)
			})
		}
	}
	for range 5 {
		after := time.Duration(rand.N(int64(500 * time.Millisecond)))
		t.Run(after.String(), func(t *testing.T) {
			t.Parallel()
			dir, _ := one(t, "", after)
			wantWhole(t, dir, host, archive)
		})
	}
}

// wantWhole opens a store, checks all that is in it, and uses it once more.
func wantWhole(t *testing.T, dir, host, archive string) {
	t.Helper()
	s, err := Open(Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.hurry(5 * time.Second)
	wantTidy(t, s)
	for _, e := range s.Entries() {
		switch e.State {
		case Empty, Failed:
		case Ready:
			wantExact(t, s, e.ID)
		default:
			t.Errorf("%s is %s", e.Name, e.State)
		}
	}
	for _, hex := range names(t, s, objectsDir) {
		wantExact(t, s, digestOf(hex))
	}
	if got := len(names(t, s, layersDir)); got != len(s.layers) {
		t.Errorf("%d layers are known of %d", len(s.layers), got)
	}
	if err := liveIn(s, host, archive); err != nil {
		t.Error(err)
	}
	if got := len(names(t, s, objectsDir)); got != 1 {
		t.Errorf("%d images are left, want one", got)
	}
	if err := s.Remove("one"); err != nil {
		t.Error(err)
	}
	if err := s.Collect(nil); err != nil {
		t.Error(err)
	}
	wantTidy(t, s)
	for _, dir := range []string{entriesDir, objectsDir, layersDir} {
		if left := names(t, s, dir); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}

// wantExact checks that the layers of an image are what they are called.
func wantExact(t *testing.T, s *Store, id string) {
	t.Helper()
	_, fill, err := s.Export(id, "")
	if err == nil {
		err = fill(t.Context(), io.Discard)
	}
	if err != nil {
		t.Errorf("image %s: %v", id, err)
	}
}
