package plan

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

var allHooks = &specs.Hooks{
	//lint:ignore SA1019 prestart is deprecated, and still what many tools write
	Prestart:      []specs.Hook{{Path: "/p", Timeout: new(1)}},
	CreateRuntime: []specs.Hook{{Path: "/r"}}, CreateContainer: []specs.Hook{{Path: "/c"}, {Path: "/d"}},
	StartContainer: []specs.Hook{{Path: "/s", Timeout: new(2)}}, Poststart: []specs.Hook{{Path: "/q"}}, Poststop: []specs.Hook{{Path: "/z"}},
}

// TestHookOrder: each point comes where the specification says.
func TestHookOrder(t *testing.T) {
	for _, locked := range []bool{true, false} {
		c := configured(t, func(c *engine.Config) {
			c.Spec.Hooks, c.Spec.Process.NoNewPrivileges, c.Spec.Process.User.UID = allHooks, locked, 1
			c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{}
		})
		h := testHost
		h.Filter = &Filter{Code: make([]byte, 8), Text: "test"}
		checkOrder(t, c, h, []orderRule{
			{"enter a new network", "wait for the prestart", "hooks set up the network"},
			{"make every mount private", "wait for the prestart", "the namespaces are made"},
			{"wait for the prestart", "wait for the createRuntime", ""},
			{"wait for the createRuntime", "run the createContainer hook /c", ""},
			{"attach the root", "run the createContainer hook /c", "they work on it"},
			{"run the createContainer hook /c", "run the createContainer hook /d", "the listed order"},
			{"run the createContainer hook /d", "pivot", "their paths are the host's"},
			{"detach the host", "run the startContainer hook", "its path is the container's"},
			{"run the startContainer hook", "close every other", "what it reads is one of the others"},
			{"run the startContainer hook", "filter", "making a process needs calls that a filter may take away"},
			{"run the startContainer hook", "execute", ""},
		})
	}
}

// TestHookRights: a hook of the container's does all that the child does after it, and so may do no more than the program.
func TestHookRights(t *testing.T) {
	for _, locked := range []bool{true, false} {
		c := configured(t, func(c *engine.Config) {
			c.Spec.Hooks, c.Spec.Process.NoNewPrivileges = allHooks, locked
			c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{}
		})
		h := testHost
		h.Filter = &Filter{Code: make([]byte, 8), Text: "test"}
		steps, err := Build(c, h)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range steps {
			if hook, ok := s.(Hook); ok && hook.Point == StartContainer {
				if rest := steps[i+3 : len(steps)-1]; !reflect.DeepEqual(hook.Rights, rest) || len(rest) < 4 { // but for the descriptors
					t.Errorf("the hook does\n%sthe child\n%s", String(hook.Rights), String(rest))
				}
			}
			if hook, ok := s.(Hook); ok && hook.Point == CreateContainer && !strings.Contains(String(hook.Rights), "become uid 0") {
				t.Errorf("hook %s is nobody in the user namespace", hook.Path)
			}
		}
	}
}

// TestHookTime counts the hooks that a start waits for.
func TestHookTime(t *testing.T) {
	if got, want := HookTime(allHooks), 3*time.Second+3*HookLimit; got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if got := HookTime(nil); got != 0 {
		t.Errorf("%v without hooks", got)
	}
}
