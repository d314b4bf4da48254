package cgroup

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// What somebody makes in a part that has been delegated is the group's: counted, frozen, killed and removed with it, and no
// group of its own to anybody else. It holds also for a tree that comes later and has not seen the delegation.
func TestDelegate(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		if !tree.host.Delegable() {
			wantErrno(t, g.Delegate(1000, 1000), errUnsupported)
			return
		}
		if err := g.Delegate(1000, 1000); err != nil {
			t.Fatal(err)
		}
		leaf := path.Join(tree.tops[0].path, "a", leafName)
		for file, want := range map[string]uint32{"": 1000, "cgroup.procs": 1000, "cgroup.subtree_control": 1000, "cgroup.max.depth": 0, "cgroup.freeze": 0, "../cgroup.procs": 0} {
			var st syscall.Stat_t
			if err := syscall.Stat(path.Join(leaf, file), &st); err != nil || st.Uid != want {
				t.Errorf("%q belongs to %d, wanted %d (%v)", file, st.Uid, want, err)
			}
		}
		below := create(t, tree, "a/b", nil)
		spawn(t, below, "exec sleep 100")
		pid := spawn(t, g, "exec sleep 100").Process.Pid
		inner := path.Join(leaf, "own.slice", leafName, "x.service") // a name of ours means nothing there
		if err := os.MkdirAll(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path.Join(inner, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(path.Join(leaf, strings.Repeat("d/", 13)), 0o755); err == nil {
			t.Error("groups can be made as deep as one likes")
		}
		later, err := tree.host.Tree(tree.name)
		if err != nil {
			t.Fatal(err)
		}
		defer later.Close()
		reopened, err := later.Open("a")
		if err != nil {
			t.Fatal(err)
		}
		for _, tr := range []*Tree{tree, later} {
			groupsAre(t, tr, "a", "a/b")
			if at, ok, err := tr.Where(pid); at != "a" || !ok || err != nil {
				t.Errorf("it is in %q, %v, %v", at, ok, err)
			}
		}
		for _, g := range []*Group{g, reopened} {
			if own, err := g.OwnProcs(); err != nil || !slices.Equal(own, []int{pid}) {
				t.Errorf("own %v, wanted %d, %v", own, pid, err)
			}
			if got := strings.Fields(read(t, g, "cgroup.stat")); len(got) < 2 || got[1] != "1" {
				t.Errorf("cgroup.stat %v", got)
			}
		}
		for controller := range strings.FieldsSeq(read(t, g, "cgroup.controllers")) { // those that nothing is enabled of yet
			if os.WriteFile(path.Join(leaf, "cgroup.subtree_control"), []byte("+"+controller), 0) != nil {
				continue
			}
			late := spawn(t, g, "exec sleep 100").Process.Pid
			if at, ok, err := tree.Where(late); at != "a" || !ok || err != nil {
				t.Errorf("with %s handed down, another one is in %q, %v, %v", controller, at, ok, err)
			}
			break
		}
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all are dead", func() bool { yes, err := g.Populated(); return !yes && err == nil })
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
		groupsAre(t, tree)
	})
}
