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
	{name: "image", shape: single, def: "none",
		read: ofConfig((*engine.Config).Image), set: asText(func(c *engine.Config, name string) error { return c.SetImage(strings.TrimSpace(name)) }),
		help: "a name in images/, instead of rootfs; its cmd, env, cwd, user and stop.signal hold where nothing else is set; the container keeps what the name stood for, until it is written again"},
	{name: "rootfs.mode", shape: single,
		read: ofConfig(func(c *engine.Config) string { return string(c.RootMode()) }),
		set: asText(func(c *engine.Config, mode string) error {
			return c.SetRootMode(engine.RootMode(strings.TrimSpace(mode)))
		}),
		help: "where writes go: overlay (a private layer kept until rmdir), volatile (until the exit), ro (nowhere), rw (the root)"},
	{name: "rootfs.size", shape: single,
		read: ofConfig(func(c *engine.Config) string { return formatLimit(c.RootSize()) }), set: asNumber(parseSize, (*engine.Config).SetRootSize),
		help: "how much the layer of the modes overlay and volatile may take, at least 1M: past it the container gets ENOSPC, and only there; it grows and shrinks with the next start, but a layer that has files and no bound does not get one"},
	{name: "commit", shape: order,
		act: toContainer(func(by engine.Caller, c engine.Container, value string) error {
			return c.Commit(by, strings.TrimSpace(value))
		}),
		help: "write a name: makes an image of the container's files, as they are at this moment, in the background; images/NAME/wait waits for it"},
	{name: "changes", shape: list, log: changes,
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

// changes is made anew at each opening, and so is its size.
var changes = &stored{
	open: func(s source) (engine.Log, error) { return s.c.Changes() },
	size: func(s source) int64 {
		size, _ := s.c.ChangesSize() // 0 when there is an error
		return size
	},
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
