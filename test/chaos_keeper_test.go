package test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// keeperDeaths counts what happens to keepers: one more when one is about to be killed, and again when the next one has mounted.
type keeperDeaths struct{ turns atomic.Int64 }

func (d *keeperDeaths) count() int64 { return (d.turns.Load() + 1) / 2 }

// settled waits until a keeper is there and returns how many have died.
func (d *keeperDeaths) settled() int64 {
	for d.turns.Load()%2 != 0 {
		time.Sleep(5 * time.Millisecond)
	}
	return d.count()
}

// killKeeper kills the keeper, and mounts again as soon as the tree has gone with it.
func (k *chaosKiller) killKeeper(keeper int) error {
	k.deaths.turns.Add(1)
	defer k.deaths.turns.Add(1)
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := k.Mount()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// steadily does something again as long as keepers die meanwhile.
func (w *chaosWorker) steadily(do func() error) error {
	for {
		before := w.deaths.settled()
		if err := do(); err == nil || w.deaths.settled() == before {
			return err
		}
	}
}

// attempt does an operation. If a keeper dies meanwhile, what was on its way may have happened, or been ended with it; then the
// container is made to be again what it was, and the operation done once more.
func (w *chaosWorker) attempt(s *chaosSlot, op chaosOp) error {
	if err := w.steadily(func() error { return w.recall(s, w.name(op.slot), false) }); err != nil {
		return err
	}
	for {
		before, old := w.deaths.settled(), *s
		err := chaosDoes[op.verb](w, s, w.name(op.slot), op)
		if err == nil {
			s.deaths = before
			return nil
		}
		// What a keeper's death ends may have been seen to run just before it noticed.
		late := old.state == runs && old.kind.held && old.deaths < before
		if w.deaths.settled() == before && !late {
			return err
		}
		renamed := s.renamed
		*s = old
		s.deaths = before
		if op.verb == "rename" && w.there(s, op.slot, renamed) {
			return nil
		}
		if err := w.steadily(func() error { return w.undo(s, w.name(op.slot), op) }); err != nil {
			return fmt.Errorf("after a keeper's death: %w", err)
		}
	}
}

// there reports whether the container has its new name, and keeps that.
func (w *chaosWorker) there(s *chaosSlot, slot, renamed int) bool {
	old := s.renamed
	s.renamed = renamed
	if _, err := w.read(w.name(slot) + "/state"); err == nil {
		return true
	}
	s.renamed = old
	return false
}

// undo takes back what there may be of an operation.
func (w *chaosWorker) undo(s *chaosSlot, name string, op chaosOp) error {
	switch op.verb {
	case "create":
		return w.away(name)
	case "start":
		return w.halt(name)
	case "exec":
		if err := w.away(name + "/exec/x"); err != nil {
			return err
		}
	case "inner":
		if err := w.away(name + "/in"); err != nil {
			return err
		}
	}
	return w.recall(s, name, op.verb == "stop" || op.verb == "kill")
}

// halt ends what runs in a container, or is about to, if anything does.
func (w *chaosWorker) halt(name string) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		text, err := w.read(name + "/status")
		if err != nil {
			return err
		}
		over := strings.HasPrefix(text, "state created") || strings.HasPrefix(text, "state exited")
		if over && !strings.Contains(text, "restart.at") {
			return nil
		}
		if err := w.write(name+"/stop", "1", syscall.EBUSY); err != nil && !errors.Is(err, syscall.EBUSY) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not stop: %s", name, text)
		}
	}
}

// away removes a container or an exec, in whatever state it is, or is not.
func (w *chaosWorker) away(name string) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		_ = w.write(name+"/kill", "KILL")
		err := w.rmdir(name)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if time.Now().After(end) {
			return err
		}
	}
}

// recall finds a container that ran before a keeper's death as it must be, and if that was its end, as it may be for some, or when
// mayEnd says so, starts it again.
func (w *chaosWorker) recall(s *chaosSlot, name string, mayEnd bool) error {
	if s.state != runs || !mayEnd && (!s.kind.held || w.deaths.count() == 0) && s.deaths == w.deaths.settled() {
		return nil
	}
	state := ""
	err := w.until(name+"/state", func(now string) bool { state = now; return now != "stopping" && (now != "exited" || !s.kind.returns) })
	if err != nil {
		return err
	}
	switch {
	case state == "paused":
		err = w.write(name+"/cgroup.freeze", "0")
		fallthrough
	case state == "running":
		pid, bad := w.read(name + "/pid")
		if err = errors.Join(err, bad); err == nil && pid != s.pid && !s.kind.returns {
			err = fmt.Errorf("%s runs as %s, and must as %s", name, pid, s.pid)
		}
		return errors.Join(err, w.ready(s, name))
	case !mayEnd && !s.kind.held:
		return fmt.Errorf("%s (%s) is %s, and must have outlived the keeper", name, s.kind.name, state)
	}
	return w.start(s, name, chaosOp{})
}
