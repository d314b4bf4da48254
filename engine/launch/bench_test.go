package launch_test

import (
	"os"
	"slices"
	"testing"

	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// BenchmarkPrepare is what the server does for a launch: the plan, its translation, the memfd.
func BenchmarkPrepare(b *testing.B) {
	null, err := os.Open("/dev/null")
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	c := config("/bin/true")
	host := plan.Host{Name: "probe", Mountpoint: "/run", LastCap: 40, Caps: 1<<41 - 1, NoFile: 4096, Roots: []plan.Prepared{{Target: "/"}}}
	for b.Loop() {
		steps, err := plan.Build(c, host)
		if err != nil {
			b.Fatal(err)
		}
		program, err := launch.Assemble(steps, launch.Files{Net: null, Roots: []*os.File{null}, Devices: slices.Repeat([]*os.File{null}, 6), Null: null, Log: null})
		if err != nil {
			b.Fatal(err)
		}
		image, err := program.Encode()
		if err != nil {
			b.Fatal(err)
		}
		image.Close()
	}
}
