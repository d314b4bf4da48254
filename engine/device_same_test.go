package engine

import "testing"

// TestDeviceListStandard: the standard list and one that only looks like it are told apart.
func TestDeviceListStandard(t *testing.T) {
	standard := NewConfig()
	if got, want := standard.DeviceList(), deviceList(standard.Spec.Linux.Resources.Devices); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for i := range standard.Spec.Linux.Resources.Devices {
		c := NewConfig()
		r := &c.Spec.Linux.Resources.Devices[i]
		r.Allow = !r.Allow
		if got, want := c.DeviceList(), deviceList(c.Spec.Linux.Resources.Devices); got != want || got == standard.DeviceList() {
			t.Errorf("rule %d turned: %q, want %q", i, got, want)
		}
		c = NewConfig()
		c.Spec.Linux.Resources.Devices[i].Access = "r"
		if got, want := c.DeviceList(), deviceList(c.Spec.Linux.Resources.Devices); got != want {
			t.Errorf("rule %d for reading: %q, want %q", i, got, want)
		}
	}
}
