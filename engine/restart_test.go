package engine

import (
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestBackoff: from 100 ms, twice as long each time, never beyond a minute.
func TestBackoff(t *testing.T) {
	want := 100 * time.Millisecond
	for bad := range 200 {
		if got := Backoff(bad); got != want {
			t.Errorf("after %d bad runs %v, wanted %v", bad, got, want)
		}
		want = min(2*want, time.Minute)
	}
}

// TestRestartAfter: what follows an exit, by policy.
func TestRestartAfter(t *testing.T) {
	ok, failed := Exit{}, Exit{Status: 3 << 8}
	killed, lost := Exit{Status: syscall.WaitStatus(syscall.SIGKILL)}, Exit{Unknown: true}
	for _, c := range []struct {
		policy   string
		exit     Exit
		restarts int
		want     bool
	}{
		{"no", failed, 0, false}, {"no", killed, 0, false},
		{"on-failure", ok, 0, false}, {"on-failure", failed, 1 << 20, true}, {"on-failure", killed, 0, true}, {"on-failure", lost, 0, true},
		{"on-failure:2", failed, 1, true}, {"on-failure:2", failed, 2, false}, {"on-failure:2", ok, 0, false},
		{"always", ok, 1 << 20, true}, {"always", killed, 0, true},
		{"unless-stopped", ok, 0, true}, {"unless-stopped", failed, 0, true},
	} {
		r, err := ParseRestart(c.policy)
		if got := r.After(c.exit, c.restarts); err != nil || got != c.want {
			t.Errorf("%s after exit %s and %d restarts: %v, error %v", c.policy, c.exit.Code(), c.restarts, got, err)
		}
	}
	for policy, want := range map[string]string{"no": "false false", "on-failure": "false false", "always": "true true", "unless-stopped": "true false"} {
		r, _ := ParseRestart(policy)
		if got := strconv.FormatBool(r.AtMount(false)) + " " + strconv.FormatBool(r.AtMount(true)); got != want {
			t.Errorf("%s at a mount, and after a stop: %s, wanted %s", policy, got, want)
		}
	}
}
