package fs

import (
	"strconv"

	"github.com/ctrfs/ctrfs/engine"
)

// idleSecondsMax bounds what net.idle parses; the engine has its own bound.
const idleSecondsMax = 1<<31 - 1

// listenRows are the sockets that ctrfs opens and holds for a container.
var listenRows = []row{
	{name: "net.listen", shape: list, def: "none",
		read: ofItems((*engine.Config).Listen), list: &listing{(*engine.Config).Listen, (*engine.Config).SetListen},
		help: "tcp ADDR:PORT, udp ADDR:PORT, unix PATH or unix-dgram PATH a line, then fds [NAME] or inetd [max=N]: start opens them on the host and returns, and the first connection launches cmd, with the sockets (LISTEN_FDS), or once for each connection, which is its stdin and stdout; a port alone is one of 127.0.0.1; mode=0660 is of a path"},
	{name: "net.idle", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return strconv.Itoa(c.Idle()) }),
		set:  asNumber(within(0, idleSecondsMax), (*engine.Config).SetIdle),
		help: "seconds without a connection on net.listen after which the program is stopped, to be launched by the next one; 0 is never, and for inetd at once"},
}
