package local

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

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

// TestStoreSurvives: what was kept is there for the next store, and what was removed is not.
func TestStoreSurvives(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir)
	config := engine.NewConfig()
	if err := config.SetCmd("sleep 1"); err != nil {
		t.Fatal(err)
	}
	kept := record{ID: "kept", Name: "web", Config: config, Owner: engine.Owner{UID: 1, Mode: 0o750}, Owners: map[string]engine.Owner{"start": {Mode: 0o220}}}
	gone := record{ID: "gone", Name: "db", Config: config}
	for _, r := range []*record{&kept, &gone} {
		if err := s.create(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.remove("gone"); err != nil {
		t.Fatal(err)
	}
	s.close()

	s = testStore(t, dir)
	defer s.close()
	records, broken, bare, err := s.load()
	if err != nil || len(records) != 1 || len(broken)+len(bare) != 0 {
		t.Fatalf("got %v %v %v (%v)", records, broken, bare, err)
	}
	r := records[0]
	if r.Name != "web" || r.Config.Cmd() != "sleep 1" || r.Owner != kept.Owner || r.Owners["start"].Mode != 0o220 {
		t.Errorf("got %+v", r)
	}
	if _, err := os.Stat(s.container("gone")); !os.IsNotExist(err) {
		t.Errorf("something of the removed one is left: %v", err)
	}
}

// TestStoreAfterCrash: directories as a crash or a fault may leave them are recognised for what they are.
func TestStoreAfterCrash(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir)
	defer s.close()
	files := map[string]string{
		"nothing/":                    "",
		"half/container.json.new":     `{"id":`,
		"torn/container.json":         `{"id":"torn","na`,
		"stranger/container.json":     `{"id":"other","name":"x","config":{}}`,
		"hostile/container.json":      `{"id":"hostile","name":"../x","config":{}}`,
		"bare-log/log":                "text",
		"empty-config/container.json": `{"id":"empty-config","name":"e","config":{}}`,
	}
	for name, text := range files {
		path := filepath.Join(s.containers(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	records, broken, bare, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(broken)
	slices.Sort(bare)
	if len(records) != 1 || records[0].ID != "empty-config" {
		t.Errorf("records: %v", records)
	}
	if got := strings.Join(broken, " "); got != "hostile stranger torn" {
		t.Errorf("broken: %s", got)
	}
	if got := strings.Join(bare, " "); got != "bare-log half nothing" {
		t.Errorf("bare: %s", got)
	}
	for _, id := range bare {
		s.sweep(id)
		if _, err := os.Stat(s.container(id)); !os.IsNotExist(err) {
			t.Errorf("%s is not swept away", id)
		}
	}
}

// TestStoreRefusesOtherVersions: a newer state directory is not touched.
func TestStoreRefusesOtherVersions(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(dir, slog.New(slog.DiscardHandler))
	if engine.Errno(err) != syscall.EINVAL {
		t.Errorf("got %v, want EINVAL", err)
	}
}

// TestFailedWriteKeepsTheOld: a directory in the way of the temporary file is a disk that refuses.
func TestFailedWriteKeepsTheOld(t *testing.T) {
	s := testStore(t, t.TempDir())
	defer s.close()
	r := record{ID: "a", Name: "a", Config: engine.NewConfig()}
	if err := s.create(&r); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.recordPath("a")+".new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.Name = "b"
	if err := s.save(&r); engine.Errno(err) != syscall.EISDIR {
		t.Errorf("got %v, want EISDIR", err)
	}
	records, _, _, err := s.load()
	if err != nil || len(records) != 1 || records[0].Name != "a" {
		t.Errorf("the old record does not stand: %v (%v)", records, err)
	}
}
