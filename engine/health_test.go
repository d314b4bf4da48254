package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHealthAfter: looks one after the other, and what is known after each.
func TestHealthAfter(t *testing.T) {
	h := Health{Retries: 2, StartPeriod: 10}
	for _, c := range []struct{ looks, want string }{
		{"1@1 1@2 1@9", "starting 0 1"},                 // in the start period failures do not count
		{"1@1 1@11", "starting 1 1"},                    // beyond it they do
		{"1@11 1@12", "unhealthy 2 1"},                  //
		{"0@1 1@2 1@3", "unhealthy 2 1"},                // after a success they do as well
		{"0@1 1@2 0@3 1@4", "healthy 1 1"},              // only those in a row
		{"1@11 1@12 1@13 0@14", "healthy 0 0"},          // one success is enough
		{"late@11 late@12 late@13", "unhealthy 3 late"}, // whatever the failure is
		{"0@1 137@20 0@30", "healthy 0 0"},              //
	} {
		v := HealthView{State: HealthStarting}
		for look := range strings.FieldsSeq(c.looks) {
			last, age, _ := strings.Cut(look, "@")
			var seconds int
			fmt.Sscan(age, &seconds)
			v = v.After(h, last, time.Duration(seconds)*time.Second)
		}
		if got := fmt.Sprint(v.State, " ", v.Failures, " ", v.Last); got != c.want {
			t.Errorf("%s: %s, wanted %s", c.looks, got, c.want)
		}
	}
}
