package engine

import "time"

// HealthView is what is known of the health of a run.
type HealthView struct {
	State    string // one of the constants; empty where nobody looks
	Failures int    // in a row
	Last     string // how the last look ended: a code as of exit, or a sentence; empty before the first
}

// The states of health.
const (
	HealthStarting  = "starting"  // nobody has looked, or it has failed so far and that does not count yet
	HealthHealthy   = "healthy"   //
	HealthUnhealthy = "unhealthy" // it has failed as many times in a row as retries says
)

// After is what is known after one more look at a run of that age. last is how it ended.
func (v HealthView) After(h Health, last string, age time.Duration) HealthView {
	v.Last = last
	switch {
	case last == "0":
		v.State, v.Failures = HealthHealthy, 0
	case v.State == HealthStarting && age < time.Duration(h.StartPeriod)*time.Second:
	default:
		if v.Failures++; v.Failures >= h.Retries {
			v.State = HealthUnhealthy
		}
	}
	return v
}
