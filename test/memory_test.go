package test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// What ctrfs itself may cost: 40 MB with nothing to do, and 64 KB for each running container.
const (
	budgetEmpty = 40 << 20
	budgetEach  = 64 << 10
)

func (m *Tree) memory() int64 {
	m.T.Helper()
	keeper, server, err := m.Processes()
	if err != nil {
		m.T.Fatal(err)
	}
	var sum int64
	for _, pid := range []int{keeper, server} {
		n, err := RSS(pid)
		if err != nil {
			m.T.Fatal(err)
		}
		sum += n
	}
	return sum
}

// TestMemory looks at the memory of server and keeper with no container, and with 200 that sleep. The measure is taken
// after a while, as a person would find it.
func TestMemory(t *testing.T) {
	if strings.HasSuffix(os.Getenv("CTRFS_BINARY"), ".race") {
		t.Skip("the race detector needs memory of its own")
	}
	m := MountFor(t)
	m.Sh("find . > /dev/null; cat help ps stats > /dev/null")
	empty := m.memory()
	t.Logf("empty: %.1f MB", float64(empty)/(1<<20))
	if empty > budgetEmpty {
		t.Errorf("%d bytes with no container, more than %d", empty, budgetEmpty)
	}
	const count = 200
	begin := time.Now()
	for i := range count {
		m.Start(fmt.Sprintf("c%d", i), "sleep 1000")
	}
	t.Logf("%d containers made and started in %v", count, time.Since(begin))
	if got := strings.Count(m.Read("ps"), "\n"); got != count {
		t.Errorf("ps has %d processes", got)
	}
	time.Sleep(2 * time.Second)
	full := m.memory()
	each := (full - empty) / count
	t.Logf("%d running: %.1f MB, %d bytes each", count, float64(full)/(1<<20), each)
	if each > budgetEach {
		t.Errorf("%d bytes for each container, more than %d", each, budgetEach)
	}
	m.Sh("for c in */; do echo KILL > $c/kill; done; cat */wait | sort | uniq -c; rmdir */")
}
