package engine

import (
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Restart is when a container is started again after its program has ended: the content of the restart file.
type Restart struct {
	When string // one of the constants
	Max  int    // restarts that on-failure allows after a start by the user; 0 is any number
}

// The words of restart.
const (
	RestartNo            = "no"
	RestartOnFailure     = "on-failure"     // unless it exits with 0
	RestartAlways        = "always"         // and at each mount, whether or not it was stopped before
	RestartUnlessStopped = "unless-stopped" // and at each mount, unless the user had stopped it
)

// ParseRestart reads a policy.
func ParseRestart(text string) (Restart, error) {
	bad := func(why string) (Restart, error) {
		return Restart{When: RestartNo}, Invalid("restart", text, why, "write no, on-failure, on-failure:N, always or unless-stopped")
	}
	word, count, counted := strings.Cut(text, ":")
	switch {
	case counted && word == RestartOnFailure:
		n, err := strconv.ParseUint(count, 10, 31)
		if err != nil || n == 0 {
			return bad("N is not a number of restarts, 1 or more")
		}
		return Restart{word, int(n)}, nil
	case !counted && (word == RestartNo || word == RestartOnFailure || word == RestartAlways || word == RestartUnlessStopped):
		return Restart{When: word}, nil
	}
	return bad("not a policy")
}

// String is what [ParseRestart] reads.
func (r Restart) String() string {
	if r.Max > 0 {
		return r.When + ":" + strconv.Itoa(r.Max)
	}
	return r.When
}

// After reports whether a run that has ended so is followed by another one, after so many restarts. An exit that nobody knows
// counts as a failure. That the user has ended the run is for the caller to know.
func (r Restart) After(x Exit, restarts int) bool {
	switch r.When {
	case RestartAlways, RestartUnlessStopped:
		return true
	case RestartOnFailure:
		return (x.Unknown || x.Status != 0) && (r.Max == 0 || restarts < r.Max)
	}
	return false
}

// AtMount reports whether a mount starts a container that has run before; stopped says that the user has ended its last run.
func (r Restart) AtMount(stopped bool) bool {
	return r.When == RestartAlways || r.When == RestartUnlessStopped && !stopped
}

// Pauses before restarts.
const (
	restartFirst = 100 * time.Millisecond
	restartLast  = time.Minute
	restartReset = 10 * time.Second // a run this long was a good one
)

// Backoff is how long a restart waits after so many bad runs in a row, not counting the one that has just ended: each time
// twice as long.
func Backoff(bad int) time.Duration {
	pause := restartFirst
	for range bad {
		if pause *= 2; pause >= restartLast {
			return restartLast
		}
	}
	return pause
}

// GoodRun reports whether a run was long enough that the next restart waits as briefly as the first.
func GoodRun(lasted time.Duration) bool { return lasted >= restartReset }

// Restart returns the policy.
func (c *Config) Restart() Restart {
	r, err := ParseRestart(c.Extension.Restart)
	if err != nil {
		return Restart{When: RestartNo} // none was written
	}
	return r
}

// SetRestart sets it from the text of the file.
func (c *Config) SetRestart(text string) error {
	r, err := ParseRestart(text)
	if err != nil {
		return err
	}
	if c.Extension.Restart = r.String(); r.When == RestartNo {
		c.Extension.Restart = ""
	}
	return nil
}

// Autostart reports whether a mount starts the container.
func (c *Config) Autostart() bool { return c.Extension.Autostart }

// SetAutostart sets that.
func (c *Config) SetAutostart(yes bool) { c.Extension.Autostart = yes }

// Init reports whether a reaper is at PID 1.
func (c *Config) Init() bool { return c.Extension.Init }

// SetInit sets that.
func (c *Config) SetInit(yes bool) { c.Extension.Init = yes }

// switchExtension is the row of a setting that is 0 or 1, and 0 by default.
func switchExtension(file, without string, get func(*Config) bool, set func(*Config, bool)) extension {
	return extension{annotation + file,
		func(c *Config) string { return strconv.Itoa(digit(get(c))) },
		func(c *Config, v string) error {
			if v != "0" && v != "1" {
				return &Error{Op: "write", File: file, Value: v, Errno: syscall.EINVAL, Why: "neither 0 nor 1"}
			}
			set(c, v == "1")
			return nil
		},
		func(*Config) string { return "0" },
		without}
}

func digit(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
