package local

import (
	"os"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// toolTime is how long a program may take that makes or changes the file system of a layer, in seconds.
var toolTime = 60

// runTool has the keeper run a program of this machine's to its end, and returns the first line that it has written. It reads
// nothing, and has no environment but a PATH.
func (e *Engine) runTool(program string, args ...string) (syscall.WaitStatus, string, error) {
	in, err := memory("input")
	if err != nil {
		return 0, "", err
	}
	defer in.Close()
	out, err := output(1)
	if err != nil {
		return 0, "", err
	}
	defer out.Close()
	discard, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return 0, "", err
	}
	defer discard.Close()
	hook := specs.Hook{Path: program, Args: append([]string{program}, args...), Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Timeout: &toolTime}
	step := plan.NewHook("", hook)
	image, err := launch.Assemble(plan.OnHost(hook, e.facts.noFile), launch.Files{Hooks: launch.Hooks{States: map[string]*os.File{"": in}, Discard: discard, Output: out}})
	if err != nil {
		return 0, "", err
	}
	status, err := e.keeper.Run(image, step.Timeout)
	return status, strings.TrimSpace(firstLine(out, 0)), err
}
