package firewall

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watch watches a table until the test ends, and returns where repairs are told.
func (w world) watch(t *testing.T, tab *Table) <-chan error {
	t.Helper()
	repaired := make(chan error, 100)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- tab.Watch(ctx, func(err error) { repaired <- err }) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the watch ended with %v", err)
			}
		case <-time.After(soon):
			t.Error("the watch goes on")
		}
	})
	time.Sleep(3 * settle) // it looks at what was before
	return repaired
}

// TestRepair: whatever somebody else does to the table, it is soon as it was.
func TestRepair(t *testing.T) {
	for name, what := range tamper {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newHost(t)
			tab := w.wantedTable()
			before := w.contents()
			repaired := w.watch(t, tab)
			w.change(what)
			select {
			case err := <-repaired:
				w.must(err)
			case <-time.After(soon):
				t.Fatal("no repair")
			}
			if now := w.contents(); now != before {
				t.Errorf("repaired to\n%s\nwanted\n%s", now, before)
			}
			select {
			case err := <-repaired:
				t.Errorf("repaired once more (%v)", err)
			case <-time.After(5 * settle):
			}
		})
	}
}

// TestOwnChangesAreQuiet: what Apply does is no change by somebody else, nor is what somebody does to another table, a table of
// another family with our name among them. Neither has the watch look at the table.
func TestOwnChangesAreQuiet(t *testing.T) {
	w := newHost(t)
	tab := w.table()
	conn, err := dial(int(w.ns.Fd()))
	w.must(err)
	defer conn.Close()
	w.must(conn.JoinGroup(unix.NFNLGRP_NFTABLES))
	changed := make(chan struct{}, 1)
	go tab.listen(t.Context(), conn, changed)
	quiet := func(when string, want bool) {
		t.Helper()
		select {
		case <-changed:
			if want {
				t.Errorf("a change by somebody: %s", when)
			}
		case <-time.After(never):
			if !want {
				t.Errorf("no change by somebody: %s", when)
			}
		}
	}
	for range 3 {
		for _, x := range []Wanted{{Networks: networks(), Ports: ports()}, {Networks: networks()}} {
			w.must(tab.Apply(x))
			quiet("ours", true)
			w.run("add table inet other; flush table inet other; delete table inet other; add table ip ctrfs-test", "nft", "-f", "-")
			quiet("another table", true)
		}
		w.must(tab.Remove())
		quiet("ours", true)
	}
	w.must(tab.Apply(Wanted{Networks: networks()}))
	quiet("ours", true)
	w.run("delete element inet ctrfs-test bridges { bra }", "nft", "-f", "-")
	quiet("an element", false)
}

// TestRemovedStaysAway: a table that was removed is not repaired, and one that is nobody's is left alone.
func TestRemovedStaysAway(t *testing.T) {
	w := newHost(t)
	tab := w.wantedTable()
	repaired := w.watch(t, tab)
	w.must(tab.Remove())
	w.run("add table inet ctrfs-test; delete table inet ctrfs-test", "nft", "-f", "-")
	select {
	case err := <-repaired:
		t.Errorf("repaired (%v)", err)
	case <-time.After(5 * settle):
	}
	w.check(tab, true)
}

// TestRepairsTakeTurns: somebody who deletes the table again and again does not keep this machine busy.
func TestRepairsTakeTurns(t *testing.T) {
	w := newHost(t)
	tab := w.wantedTable()
	repaired := w.watch(t, tab)
	n := 0
	for end := time.After(2 * time.Second); ; n++ {
		w.run("add table inet ctrfs-test; delete table inet ctrfs-test", "nft", "-f", "-")
		select {
		case err := <-repaired:
			w.must(err)
			continue
		case <-end:
		}
		break
	}
	if n == 0 || n > 6 {
		t.Errorf("%d repairs in two seconds", n)
	}
}

// TestWatchFindsWhatWas: a change before there was a watch is undone too.
func TestWatchFindsWhatWas(t *testing.T) {
	w := newHost(t)
	tab := w.wantedTable()
	w.run("flush ruleset", "nft", "-f", "-")
	select {
	case err := <-w.watch(t, tab):
		w.must(err)
	case <-time.After(soon):
		t.Error("no repair")
	}
	w.check(tab, true)
}

// TestRepairFails: it is told, and tried again.
func TestRepairFails(t *testing.T) {
	w := newHost(t)
	tab := w.wantedTable()
	repaired := w.watch(t, tab)
	tab.mu.Lock()
	tab.held.add(any6, "too long a key for any of them", element{})
	tab.mu.Unlock()
	w.run("delete table inet ctrfs-test", "nft", "-f", "-")
	for range 2 {
		select {
		case err := <-repaired:
			if !errors.Is(err, unix.EINVAL) {
				t.Errorf("told %v", err)
			}
		case <-time.After(soon):
			t.Fatal("not told")
		}
	}
	tab.mu.Lock()
	delete(tab.held[any6], "too long a key for any of them")
	tab.mu.Unlock()
	for err := range repaired {
		if err == nil {
			break
		}
	}
	w.check(tab, true)
}
