package plan

import "slices"

// Reaper makes a child, for which the steps that follow are, and which executes the program. When it has, this process takes the
// same steps and becomes the reaper, engine/reaper: PID 1 of a container with init.
type Reaper struct{}

func (Reaper) String() string {
	return "fork: the child goes on; when it has executed the program, do what follows and become the reaper"
}

// withReaper puts a fork before the last steps. The child has a session of its own, as the program has without a reaper: a terminal is then
// its own, and what the terminal sends it does not get twice.
func withReaper(last []Step) []Step { return slices.Concat([]Step{Reaper{}, Session{}}, last) }
