package test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var baseline = flag.String("baseline", "", "for TestNothingLeft: the `file` with what was there before; made when missing")

// TestNothingLeft is run before everything and again after: the second time it fails if ctrfs left anything on the
// machine in between. `make test` does that; without -baseline there is nothing to compare with.
func TestNothingLeft(t *testing.T) {
	if *baseline == "" {
		t.Skip("no -baseline")
	}
	text, err := os.ReadFile(*baseline)
	if os.IsNotExist(err) {
		var lines strings.Builder
		for thing := range TakeInventory() {
			fmt.Fprintln(&lines, thing)
		}
		if err := os.WriteFile(*baseline, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	before := Inventory{}
	for line := range strings.Lines(string(text)) {
		before[strings.TrimSuffix(line, "\n")] = true
	}
	for _, thing := range before.Leftovers(func(string) bool { return true }) {
		t.Errorf("left behind: %s", thing)
	}
}
