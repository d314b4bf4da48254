package local

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
)

// rangeSize is how many ids a container has: those of a whole Linux system, 0 to nobody.
const rangeSize = 65536

// The default ranges are those that nobody else gives out: systemd's table of ids (UIDS-GIDS.md) leaves 0x70000000 to
// 0x7ffdffff free, above its own containers and below what programs with signed ids cannot tell.
const (
	defaultFirst = 0x70000000
	defaultCount = 0x7ffe0000 - defaultFirst
)

// subidUser is whose lines in /etc/subuid and /etc/subgid, subuid(5), say which ids containers may have instead.
const subidUser = "ctrfs"

// ranges hands out ranges of host ids. Whoever has one holds it on this machine, against every other ctrfs too: by a lock on
// a byte of the file of claims, whose offset is the number of the range.
type ranges struct {
	claims *os.File
	spans  []span

	mu   sync.Mutex
	mine map[uint32]bool // first ids; guarded by mu, because a lock does not stop its own holder
}

// span is an interval of ids of which ranges are made.
type span struct{ first, count uint64 }

// newRanges takes over the file of claims. kept are the ranges of the containers that there are; those whose range another
// ctrfs holds are told to lost.
func newRanges(claims *os.File, kept map[uint32]bool, lost func(first uint32)) (*ranges, error) {
	r := &ranges{claims: claims, mine: map[uint32]bool{}}
	var err error
	if r.spans, err = subids("/etc/subuid", "/etc/subgid"); err != nil {
		return nil, err
	}
	// What an earlier server has left in stock is nobody's. What is kept is not let go for a moment.
	next := int64(0)
	for _, first := range slices.Sorted(keys(kept)) {
		at := int64(first) / rangeSize
		if at > next {
			err = errors.Join(err, r.lock(unix.F_UNLCK, next, at-next))
		}
		next = at + 1
		if r.lock(unix.F_WRLCK, at, 1) == nil {
			r.mine[first] = true
			crash.Point("keep ids")
		} else {
			lost(first)
		}
	}
	return r, errors.Join(err, r.lock(unix.F_UNLCK, next, 0))
}

func keys(m map[uint32]bool) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (r *ranges) lock(how int16, at, count int64) error {
	l := unix.Flock_t{Type: how, Whence: 0, Start: at, Len: count}
	if err := unix.FcntlFlock(r.claims.Fd(), unix.F_OFD_SETLK, &l); err != nil {
		return &os.PathError{Op: "lock", Path: r.claims.Name(), Err: err}
	}
	return nil
}

// take finds a free range and returns its first id. It begins anywhere, so that several ctrfs do not all try the same ones.
func (r *ranges) take() (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		n := s.count / rangeSize
		if n == 0 {
			continue
		}
		start := rand.Uint64N(n)
		for i := range n {
			first := uint32(s.first + (start+i)%n*rangeSize)
			if !r.mine[first] && r.lock(unix.F_WRLCK, int64(first)/rangeSize, 1) == nil {
				r.mine[first] = true
				crash.Point("stock ids")
				return first, nil
			}
		}
	}
	return 0, &engine.Error{Op: "start", File: "uid_map", Errno: syscall.ENOSPC, Why: "every range of host ids is taken",
		Cure: "remove containers, or give user " + subidUser + " more ids in /etc/subuid and /etc/subgid"}
}

// likely names a range that is free here at the moment, for a container that has none yet: the same one each time, as long as
// nobody takes it. It stays free.
func (r *ranges) likely(id string) (first uint32, ok bool) {
	h := fnv.New64a()
	h.Write([]byte(id))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		n := s.count / rangeSize
		for i := range n {
			first := uint32(s.first + (h.Sum64()%n+i)%n*rangeSize)
			if !r.mine[first] {
				return first, true
			}
		}
	}
	return 0, false
}

// give frees a range. Zero is none.
func (r *ranges) give(first uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mine[first] {
		delete(r.mine, first)
		_ = r.lock(unix.F_UNLCK, int64(first)/rangeSize, 1) // of what is locked, it cannot fail
		crash.Point("free ids")
	}
}

// subids reads which ids containers may have: those that both files give, else the default. Ranges begin at multiples of
// their size, so that no two of them overlap, whoever has read what.
func subids(uidFile, gidFile string) ([]span, error) {
	uids, err := readSubids(uidFile)
	if err != nil {
		return nil, err
	}
	gids, err := readSubids(gidFile)
	if err != nil {
		return nil, err
	}
	var out []span
	for _, u := range uids {
		for _, g := range gids {
			first, end := max(u.first, g.first), min(u.first+u.count, g.first+g.count)
			first = (first + rangeSize - 1) / rangeSize * rangeSize
			if end > first && end-first >= rangeSize {
				out = append(out, span{first, (end - first) / rangeSize * rangeSize})
			}
		}
	}
	if len(uids)+len(gids) == 0 {
		out = []span{{defaultFirst, defaultCount}}
	}
	return out, nil
}

// readSubids reads the lines of one file. Lines of others, and those that make no sense, are not ours to mind.
func readSubids(file string) ([]span, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []span
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 3 || fields[0] != subidUser {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 == nil && err2 == nil && first > 0 && first+count <= 1<<32-1 {
			out = append(out, span{first, count})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return out, nil
}
