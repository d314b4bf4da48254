package engine

import (
	"slices"
	"strings"
	"testing"
)

// TestOCIMountTargets: other runtimes never see the option that makes a target, their mounts get it, and a copy of a
// configuration keeps which target is made and which must be there.
func TestOCIMountTargets(t *testing.T) {
	lines := []string{"/srv /made none bind,ro,x-mount.mkdir 0 0", "/srv /there none bind 0 0", "tmpfs /a\\040b tmpfs size=1M,x-mount.mkdir 0 0"}
	c := NewConfig()
	if err := c.SetMounts(lines); err != nil {
		t.Fatal(err)
	}
	text, err := c.OCI(Automatic{})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), mkdirOption) {
		t.Errorf("another runtime would be given %s:\n%s", mkdirOption, text)
	}
	copied, err := ParseOCI(text)
	if err != nil || !slices.Equal(copied.Mounts(), lines) {
		t.Errorf("a copy has %q (%v), want %q", copied.Mounts(), err, lines)
	}
	foreign := strings.Replace(string(text), `"org.ctrfs.mounts.existing": "/there"`, `"x": ""`, 1)
	taken, err := ParseOCI([]byte(foreign))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range taken.Mounts() {
		if !strings.Contains(line, mkdirOption) {
			t.Errorf("of a foreign configuration: %s", line)
		}
	}
}
