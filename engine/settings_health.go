package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kballard/go-shellquote"
)

// Health says how the health of a container is looked after: the content of its health file. Times are in seconds.
type Health struct {
	Cmd         []string `json:"cmd,omitempty"` // run inside; it is well while this exits with 0. None: nobody looks
	Interval    int      `json:"interval"`      // from the end of one look to the next
	Timeout     int      `json:"timeout"`       // after which it is killed, and has failed
	Retries     int      `json:"retries"`       // failures in a row that make it unhealthy
	StartPeriod int      `json:"start-period"`  // in which failures do not count, until the first success
	Action      string   `json:"action"`        // one of the constants
}

// What follows when a container has become unhealthy.
const (
	HealthNone    = "none"
	HealthStop    = "stop"    // as by stop, and no restart follows
	HealthRestart = "restart" // the same, and it is started again, whatever restart says
)

var healthActions = []string{HealthNone, HealthStop, HealthRestart}

func defaultHealth() Health {
	return Health{Interval: 30, Timeout: 30, Retries: 3, Action: HealthNone}
}

// HealthKeys are the keys of the file, in order.
var HealthKeys = []string{"cmd", "interval", "timeout", "retries", "start-period", "action"}

// healthNumber is a key with a number.
type healthNumber struct {
	field   func(*Health) *int
	lo, hi  int
	meaning string
}

// day bounds the times.
const day = 24 * 60 * 60

var healthNumbers = map[string]healthNumber{
	"interval":     {func(h *Health) *int { return &h.Interval }, 1, day, "seconds"},
	"timeout":      {func(h *Health) *int { return &h.Timeout }, 1, day, "seconds"},
	"retries":      {func(h *Health) *int { return &h.Retries }, 1, 1000000, "failures"},
	"start-period": {func(h *Health) *int { return &h.StartPeriod }, 0, day, "seconds"},
}

// Health returns how it is looked after.
func (c *Config) Health() Health {
	if c.Extension.Health == nil {
		return defaultHealth()
	}
	return *c.Extension.Health
}

// HealthValue is the value of a key; empty when there is none.
func (c *Config) HealthValue(key string) string {
	h := c.Health()
	if n, ok := healthNumbers[key]; ok {
		return strconv.Itoa(*n.field(&h))
	}
	if key == "cmd" {
		return shellquote.Join(h.Cmd...)
	}
	return h.Action
}

// SetHealth sets a key; an empty value resets it.
func (c *Config) SetHealth(key, value string) error {
	h := c.Health()
	refuse := func(why, cure string) error {
		return Invalid("health", strings.TrimSpace(key+" "+value), why, cure)
	}
	number, isNumber := healthNumbers[key]
	switch {
	case !slices.Contains(HealthKeys, key):
		return refuse("no such key", "write one of "+strings.Join(HealthKeys, " "))
	case key == "cmd":
		args, err := shellquote.Split(value)
		if err != nil || len(args) > 0 && args[0] == "" {
			return refuse("not a program with its arguments", "write the program first, and close every quote")
		}
		h.Cmd = args
	case value == "" && isNumber:
		fresh := defaultHealth()
		*number.field(&h) = *number.field(&fresh)
	case value == "":
		h.Action = HealthNone
	case isNumber:
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil || int(n) < number.lo || int(n) > number.hi {
			return refuse("not a number in range", fmt.Sprintf("write %d to %d %s", number.lo, number.hi, number.meaning))
		}
		*number.field(&h) = int(n)
	case !slices.Contains(healthActions, value):
		return refuse("no such action", "write none, stop or restart")
	default:
		h.Action = value
	}
	c.Extension.Health = &h
	if fresh := defaultHealth(); len(h.Cmd) == 0 && h.Interval == fresh.Interval && h.Timeout == fresh.Timeout && h.Retries == fresh.Retries &&
		h.StartPeriod == 0 && h.Action == fresh.Action {
		c.Extension.Health = nil
	}
	return nil
}

// ociHealth is the annotation: KEY VALUE a line, as the file. setOCIHealth takes it.
func (c *Config) ociHealth() string {
	if c.Extension.Health == nil {
		return ""
	}
	var lines []string
	for _, key := range HealthKeys {
		if v := c.HealthValue(key); v != "" {
			lines = append(lines, key+" "+v)
		}
	}
	return strings.Join(lines, "\n")
}

func (c *Config) setOCIHealth(text string) error {
	c.Extension.Health = nil
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		if err := c.SetHealth(key, value); err != nil {
			return err
		}
	}
	return nil
}
