package local

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

func testStore(t *testing.T, dir string) *store {
	t.Helper()
	s, err := openStore(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// save makes the directory of a new container, as package overlay does, and its record.
func save(s *store, r *record) error {
	if err := os.MkdirAll(s.path(r.ID), 0o700); err != nil {
		return err
	}
	return s.save(r)
}

// TestStoreSurvives: what was kept is there for the next store.
func TestStoreSurvives(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir)
	config := engine.NewConfig()
	if err := config.SetCmd("sleep 1"); err != nil {
		t.Fatal(err)
	}
	kept := record{ID: "kept", Name: "web", Config: config, Owner: engine.Owner{UID: 1, Mode: 0o750}, Owners: map[string]engine.Owner{"start": {Mode: 0o220}}}
	if err := save(s, &kept); err != nil {
		t.Fatal(err)
	}
	s.close()

	s = testStore(t, dir)
	defer s.close()
	records, broken := s.load([]string{"kept"})
	if len(records) != 1 || len(broken) != 0 {
		t.Fatalf("got %v %v", records, broken)
	}
	r := records[0]
	if r.Name != "web" || r.Config.Cmd() != "sleep 1" || r.Owner != kept.Owner || r.Owners["start"].Mode != 0o220 {
		t.Errorf("got %+v", r)
	}
}

// TestStoreAfterCrash: directories as a crash or a fault may leave them are recognised for what they are.
func TestStoreAfterCrash(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir)
	defer s.close()
	files := map[string]string{
		"bare/log":            "text",
		"nothing/record":      "",
		"half/record.new":     `{"id":`,
		"torn/record":         `{"id":"torn","na`,
		"stranger/record":     `{"id":"other","name":"x","config":{}}` + "\n",
		"hostile/record":      `{"id":"hostile","name":"../x","config":{}}` + "\n",
		"empty-config/record": `{"id":"empty-config","name":"e","config":{}}` + "\n",
		"cut/record":          `{"id":"cut","name":"c","config":{}}` + "\n" + `{"id":"cut","name":"d","con`,
		"cut/log.new":         "text",
	}
	var ids []string
	for name, text := range files {
		id, file, _ := strings.Cut(name, "/")
		ids = append(ids, id)
		name = filepath.Join(s.path(id), file)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(ids)
	records, broken := s.load(slices.Compact(ids))
	if len(records) != 2 || records[0].Name != "c" || records[1].Name != "e" {
		t.Errorf("records: %v", records)
	}
	if got := strings.Join(broken, " "); got != "hostile stranger torn" {
		t.Errorf("broken: %s", got)
	}
	next := *records[0]
	next.Name = "after"
	if err := s.save(&next); err != nil {
		t.Fatal(err)
	}
	if records, broken := s.load([]string{"cut"}); len(records) != 1 || records[0].Name != "after" || len(broken) != 0 {
		t.Errorf("a change after a line that was cut short: %v %v", records, broken)
	}
}

// TestStoreRefusesOtherVersions: a state directory of another layout is not touched.
func TestStoreRefusesOtherVersions(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(dir, slog.New(slog.DiscardHandler))
	if engine.Errno(err) != syscall.EINVAL {
		t.Errorf("got %v, want EINVAL", err)
	}
}

// TestFailedWriteKeepsTheOld: a file system without room refuses, whole, and the old record stands.
func TestFailedWriteKeepsTheOld(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	s := testStore(t, dir)
	defer s.close()
	r := record{ID: "a", Name: "a", Config: engine.NewConfig()}
	if err := save(s, &r); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(s.recordPath("a"))
	if err != nil {
		t.Fatal(err)
	}
	r.Config.Spec.Process.Env = []string{"A=" + strings.Repeat("x", 128<<10)}
	if err := s.save(&r); engine.Errno(err) != syscall.ENOSPC {
		t.Errorf("got %v, want ENOSPC", err)
	}
	if after, err := os.ReadFile(s.recordPath("a")); err != nil || string(after) != string(before) {
		t.Errorf("the record changed: %d bytes, were %d (%v)", len(after), len(before), err)
	}
}

// TestRecordStaysSmall: a record that is changed a thousand times does not grow a thousand times.
func TestRecordStaysSmall(t *testing.T) {
	s := testStore(t, t.TempDir())
	defer s.close()
	r := record{ID: "a", Name: "a", Config: engine.NewConfig()}
	if err := save(s, &r); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		r.Owner.UID = uint32(i)
		if err := s.save(&r); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(s.recordPath("a"))
	if err != nil || info.Size() > 2*recordMax {
		t.Errorf("%d bytes (%v)", info.Size(), err)
	}
	if records, _ := s.load([]string{"a"}); len(records) != 1 || records[0].Owner.UID != 999 {
		t.Errorf("got %+v", records)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"id":"a","name":"c","config":{}}` + "\n" + `{"id"`))
	f.Add([]byte(`{"id":"a","name":"c","config":{"spec":{"linux":{}}}}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRecord("a", text)
		if err == nil && (r.ID != "a" || engine.ValidateName(r.Name) != nil || r.Config.Cmd() == "x\x00") {
			t.Errorf("%q gives %+v", text, r)
		}
	})
}
