package fs

import (
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// filesRows are the settings of what a container's program sees as its files.
var filesRows = []row{
	{name: "rootfs", shape: single,
		read: ofConfig((*engine.Config).Rootfs), set: asText((*engine.Config).SetRootfs),
		help: "a directory, or a file that holds an ext4, xfs, btrfs, squashfs or erofs, or host: a read-only view of this machine's /usr with everything else fresh; a relative path is taken from the writer's working directory"},
	{name: "rootfs.mode", shape: single,
		read: ofConfig(func(c *engine.Config) string { return string(c.RootMode()) }),
		set: asText(func(c *engine.Config, mode string) error {
			return c.SetRootMode(engine.RootMode(strings.TrimSpace(mode)))
		}),
		help: "where writes go: overlay (a private layer kept until rmdir), volatile (until the exit), ro (nowhere), rw (the root)"},
	{name: "rootfs.size", shape: single,
		read: ofConfig(func(c *engine.Config) string { return formatLimit(c.RootSize()) }), set: asNumber(parseSize, (*engine.Config).SetRootSize),
		help: "how much the layer of the modes overlay and volatile may take, at least 1M: past it the container gets ENOSPC, and only there; it grows and shrinks with the next start, but a layer that has files and no bound does not get one"},
	{name: "changes", shape: list, log: inContainer(engine.Container.Changes), size: inContainer(engine.Container.ChangesSize),
		help: "A, C or D and a path a line: what is new, changed and deleted in the layer, against the root; a control character or backslash in a name is \\NNN in octal"},
	{name: "root", shape: linked, absent: "write new for mnt into namespaces",
		link: func(p engine.Program) (string, bool) {
			c, ok := p.(engine.Container)
			if !ok {
				return "", false
			}
			return c.Root()
		},
		reach: inContainer(engine.Container.OpenRoot),
		help:  "a link to the container's root, for root on the host; of one that does not run, to what its program would find, read-only"},
}

// inContainer asks a container, which alone has files of its own.
func inContainer[T any](ask func(engine.Container) (T, error)) func(engine.Program) (T, error) {
	return func(p engine.Program) (answer T, err error) {
		c, ok := p.(engine.Container)
		if !ok {
			return answer, syscall.EOPNOTSUPP
		}
		return ask(c)
	}
}
