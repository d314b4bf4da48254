package overlay

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ctrfs/ctrfs/engine"
)

// changed is what Changes writes.
func changed(t testing.TB, s *Store, from Source, how engine.RootMode, live *Root) string {
	t.Helper()
	var b strings.Builder
	if err := s.Changes("c", from, how, live, live != nil, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Every kind of change, under each kind of root, while it runs and afterwards.
func TestChanges(t *testing.T) {
	script := [][2]string{
		{"write /new text", ""}, {"rm /gone", ""}, {"chown /base 5 6", ""}, {"mkdir /made", ""}, {"write /made/file x", ""},
		{"rm /dir", ""}, {"mkdir /dir", ""}, {"write /dir/file again", ""}, {"write /dir/added x", ""}, {"mkdir /dir/sub", ""},
		{"rm /link", ""}, {"mkdir /link", ""}, {"write /link/x x", ""}, {"write /a\nD\\b x", ""}, {"write /short x", ""}, {"rm /short", ""},
	}
	want := strings.Join([]string{`A /a\012D\134b`, "C /base", "C /dir", "A /dir/added", "C /dir/file", "A /dir/sub", "D /dir/gone", "D /dir/other", "D /gone",
		"C /link", "A /link/x", "A /made", "A /made/file", "A /new"}, "\n") + "\n"
	for _, kind := range []string{"directory", "chain", "ext4", "bounded"} {
		for _, how := range []engine.RootMode{"overlay", "volatile"} {
			t.Run(kind+" "+string(how), func(t *testing.T) {
				s, dir := newStore(t), tempDir(t)
				s.RunWith(runHere)
				var from Source
				switch kind {
				case "chain":
					testRoot(t, s.state+"/layers/1")
					makeTree(t, s.state+"/layers/1", map[string]string{"hidden": "x"})
					makeTree(t, s.state+"/layers/0", map[string]string{"dir/gone/deep": "x"})
					from = Source{Base: s.state + "/layers", Layers: []string{s.state + "/layers/0", s.state + "/layers/1"}}
				case "ext4":
					makeTree(t, dir+"/root.files", map[string]string{"dir/gone/deep": "x"})
					diskFile(t, s, "ext4", dir+"/root")
					from = Directory(dir + "/root")
				default:
					from = Directory(testRoot(t, makeTree(t, dir+"/root", map[string]string{"dir/gone/deep": "x"})))
				}
				if kind == "bounded" {
					from.Size = 8 << 20
				}
				home(t, s, "c")
				if got := changed(t, s, from, how, nil); got != "" {
					t.Errorf("before the first start: %q", got)
				}
				r, err := s.Prepare("c", from, how, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				expect(t, r, script)
				if got := changed(t, s, from, how, r); got != want {
					t.Errorf("while it runs:\n%s", got)
				}
				r.Close()
				after := want
				if how == "volatile" {
					after = ""
				}
				if got := changed(t, s, from, how, nil); got != after {
					t.Errorf("afterwards:\n%s", got)
				}
			})
		}
	}
}

// A hostile tree costs an error, or time, but neither descriptors nor a look at what its links lead to.
func TestChangesOfHostileTree(t *testing.T) {
	s, root := newStore(t), testRoot(t, tempDir(t))
	prepare(t, s, "c", root, "overlay").Close()
	upper := s.layerPath("c") + "/upper"
	makeTree(t, upper, map[string]string{"dir": "->/etc", "many/": ""})
	for i := range 5000 {
		if err := os.WriteFile(fmt.Sprintf("%s/many/%04d", upper, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := changed(t, s, Directory(root), "overlay", nil)
	if n := strings.Count(got, "\n"); n != 5002 || !strings.HasPrefix(got, "C /dir\nA /many\n") {
		t.Errorf("%d lines: %.100s", n, got)
	}
	if err := os.Chdir(upper); err != nil {
		t.Fatal(err)
	}
	defer os.Chdir("/")
	for range differFiles + 10 {
		if os.Mkdir("d", 0o700) != nil || os.Chdir("d") != nil {
			t.Fatal("cannot nest")
		}
	}
	if err := s.Changes("c", Directory(root), "overlay", nil, false, new(strings.Builder)); err == nil || !strings.Contains(err.Error(), "nested") {
		t.Errorf("got %v", err)
	}
}
