package local

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// bare makes a container with a policy that nothing can be started of.
func bare(t *testing.T, policy string) *container {
	t.Helper()
	config := engine.NewConfig()
	if err := config.SetRestart(policy); err != nil {
		t.Fatal(err)
	}
	return newContainer(&Engine{automatic: newAutomatic()}, record{ID: "c", Name: "c", Config: config})
}

// TestRestartPauses: the pause grows with each short run, and a run of ten seconds makes it short again.
func TestRestartPauses(t *testing.T) {
	c := bare(t, "always")
	at := time.Unix(1e9, 0)
	for i, run := range []struct {
		lasted string
		pause  time.Duration
	}{
		{"0s", 100 * time.Millisecond}, {"1s", 200 * time.Millisecond}, {"9.9s", 400 * time.Millisecond},
		{"10s", 100 * time.Millisecond}, {"0s", 200 * time.Millisecond}, {"1h", 100 * time.Millisecond}, {"2h", 100 * time.Millisecond},
	} {
		lasted, err := time.ParseDuration(run.lasted)
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.rec.RestartAt = time.Time{} // as a start leaves it
		before := time.Now()
		c.follow(engine.Exit{Status: 1 << 8, Started: at, Finished: at.Add(lasted)}, false)
		due, after := c.rec.RestartAt, time.Now()
		c.mu.Unlock()
		if due.Before(before.Add(run.pause)) || due.After(after.Add(run.pause)) {
			t.Errorf("run %d: the pause is %v, wanted %v", i, due.Sub(before), run.pause)
		}
	}
}

// TestRestartCalledOff: who waits is woken, and nothing is due.
func TestRestartCalledOff(t *testing.T) {
	c := bare(t, "on-failure:1")
	c.mu.Lock()
	c.follow(engine.Exit{Unknown: true}, false)
	moved, due := c.moved, !c.rec.RestartAt.IsZero()
	off := c.callOff()
	c.mu.Unlock()
	select {
	case <-moved:
	default:
		t.Error("nobody is woken")
	}
	if !due || !off || !c.View().Due.IsZero() {
		t.Errorf("due %v, called off %v, due then %v", due, off, c.View().Due)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.callOff() {
		t.Error("called off twice")
	}
	c.rec.Stopped = byUser
	c.follow(engine.Exit{Unknown: true}, false)
	if !c.rec.RestartAt.IsZero() {
		t.Error("a run that the user has stopped is followed by another")
	}
}

// TestRestartRecord: a record holds what is due, and one without a policy is as short as it always was.
func TestRestartRecord(t *testing.T) {
	r := record{restarting: restarting{Restarts: 2, Bad: 3, RestartAt: time.Unix(1e9, 5).UTC(), Stopped: byUser}}
	text, err := json.Marshal(r)
	var back record
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || back.restarting != r.restarting {
		t.Errorf("%s: %+v, error %v", text, back.restarting, err)
	}
	if text, err := json.Marshal(record{}); err != nil || strings.Contains(string(text), "restart") || strings.Contains(string(text), "stopped") {
		t.Errorf("%s %v", text, err)
	}
}

// TestRestartUnseen: a run by the policy that began and ended, or just began, without a server counts.
func TestRestartUnseen(t *testing.T) {
	c := bare(t, "on-failure:2")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.follow(engine.Exit{Unknown: true}, false)
	c.recall(time.Unix(1, 0))
	if c.rec.Restarts != 1 || !c.rec.RestartAt.IsZero() {
		t.Errorf("after a run that goes on: %+v", c.rec.restarting)
	}
	for want := 1; want <= 2; want++ {
		c.recall(time.Unix(int64(want), 0))
		c.follow(engine.Exit{Unknown: true}, false)
		if c.rec.Restarts != want || c.rec.RestartAt.IsZero() != (want == 2) {
			t.Errorf("after an exit: %+v, wanted %d restarts", c.rec.restarting, want)
		}
	}
}

// TestRestartUnseenStart: somebody has started a container that somebody had stopped, and the server died before that was on disk. The
// stop is not this run's.
func TestRestartUnseenStart(t *testing.T) {
	c := bare(t, "always")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec.Begun, c.rec.Stopped = time.Unix(1, 0), byUser
	c.recall(time.Unix(1, 0))
	if c.rec.Stopped != byUser {
		t.Error("a stop of this run is forgotten")
	}
	c.recall(time.Unix(2, 0))
	c.follow(engine.Exit{Unknown: true}, false)
	if c.rec.RestartAt.IsZero() {
		t.Errorf("no restart follows: %+v", c.rec.restarting)
	}
}
