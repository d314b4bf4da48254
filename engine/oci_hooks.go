package engine

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Bounds of hooks: a start waits for them, and they travel to it in one piece.
const (
	ociHooksMax   = 64      // of one point
	ociTimeoutMax = 1 << 16 // seconds, most of a day
)

// checkHooks checks what the start will execute; only root gets here.
func checkHooks(c *Config) error {
	h := c.Spec.Hooks
	if h == nil {
		return nil
	}
	//lint:ignore SA1019 prestart is deprecated, and still what many tools write
	for _, list := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} {
		if len(list) > ociHooksMax {
			return ociBad(fmt.Sprint(len(list)), "too many hooks for one moment", fmt.Sprintf("give at most %d", ociHooksMax))
		}
		for _, hook := range list {
			if err := checkHook(hook); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkHook(h specs.Hook) error {
	if !path.IsAbs(h.Path) {
		return ociBad(h.Path, "not an absolute path", "begin path with /")
	}
	if h.Timeout != nil && (*h.Timeout <= 0 || *h.Timeout > ociTimeoutMax) {
		return ociBad(fmt.Sprint(*h.Timeout), "not a timeout", fmt.Sprintf("write 1 to %d seconds, or leave it out for 30", ociTimeoutMax))
	}
	for _, text := range append(append([]string{h.Path}, h.Args...), h.Env...) {
		if strings.ContainsRune(text, 0) {
			return ociBad(h.Path, "a NUL byte, which no program can be given", ociLeave)
		}
	}
	for _, line := range h.Env {
		if name, _, found := strings.Cut(line, "="); !found || name == "" {
			return ociBad(line, "not of the form NAME=VALUE", "give the variable a value, or leave it out")
		}
	}
	return nil
}
