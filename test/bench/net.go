package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// networks measures what a network adds to a start, in a network namespace made for it: the same job without a network and on a
// bridge, one at a time and crowd at a time.
func networks(n, crowd int) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil { // of the main thread, which everything below is started from
		return os.NewSyscallError("unshare", err)
	}
	fs, err := test.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	root := fs.Base + "/root"
	if err := test.BusyboxRoot(root); err != nil {
		return err
	}
	none := throughMount("without a network", fs.Dir, root, [2]string{"rootfs.mode", "overlay"})
	bridge := throughMount("on a bridge", fs.Dir, root, [2]string{"net", "bridge"}, [2]string{"rootfs.mode", "overlay"})
	all := []*contestant{none, bridge}
	for _, c := range all {
		c.do(func(*row, time.Duration) {})
	}
	for done := 0; done < n; done += burst {
		for _, c := range all {
			for range burst {
				c.do(func(r *row, took time.Duration) { r.hot = append(r.hot, took) })
			}
		}
		for range burst {
			for _, c := range all {
				time.Sleep(idle)
				c.do(func(r *row, took time.Duration) { r.cold = append(r.cold, took) })
			}
		}
	}
	report(all)
	for _, c := range all {
		if c.err != nil {
			return c.err
		}
	}
	hot, cold := none.rows[1], bridge.rows[1]
	fmt.Printf("start alone, on a bridge: %.2f × hot, %.2f × cold\n", times(at(cold.hot, 50), at(hot.hot, 50)), times(at(cold.cold, 50), at(hot.cold, 50)))
	return bursts(fs.Dir, root, max(n/20, 3), crowd)
}

func times(a, b time.Duration) float64 { return float64(a) / float64(b) }

// bursts starts so many at once, in turns without and with a network.
func bursts(dir, root string, rounds, crowd int) error {
	var took [2][]time.Duration
	for round := range rounds {
		for kind, net := range []string{"none", "bridge"} {
			starts, err := together(filepath.Join(dir, fmt.Sprintf("burst%d-%d-", kind, round)), root, net, crowd)
			if err != nil {
				return err
			}
			if round > 0 { // the first one tells the stock how many are wanted
				took[kind] = append(took[kind], starts...)
			}
			time.Sleep(time.Second) // for the stock
		}
	}
	for kind, net := range []string{"without a network", "on a bridge"} {
		fmt.Printf("start, %d at once, %s: p50 %s ms, p99 %s ms\n", crowd, net, ms(at(took[kind], 50)), ms(at(took[kind], 99)))
	}
	fmt.Printf("%.2f × at p50\n", times(at(took[1], 50), at(took[0], 50)))
	return nil
}

// together starts a crowd at once, and returns how long each start took. They are removed afterwards.
func together(prefix, root, net string, crowd int) (took []time.Duration, err error) {
	took = make([]time.Duration, crowd)
	failed := make([]error, crowd)
	for i := range crowd {
		c := fmt.Sprint(prefix, i)
		if err := os.Mkdir(c, 0o755); err != nil {
			return nil, err
		}
		for _, s := range [][2]string{{"cmd", "/bin/true"}, {"rootfs", root}, {"net", net}} {
			if err := put(c+"/"+s[0], s[1]+"\n"); err != nil {
				return nil, reason(c, err)
			}
		}
	}
	var all sync.WaitGroup
	for i := range crowd {
		all.Go(func() {
			begin := time.Now()
			failed[i] = os.WriteFile(fmt.Sprint(prefix, i, "/start"), []byte("1\n"), 0)
			took[i] = time.Since(begin)
		})
	}
	all.Wait()
	for i := range crowd {
		c := fmt.Sprint(prefix, i)
		if failed[i] != nil {
			return nil, reason(c, failed[i])
		}
		if _, err := get(c + "/wait"); err != nil {
			return nil, err
		}
		if err := os.Remove(c); err != nil {
			return nil, err
		}
	}
	return took, nil
}
