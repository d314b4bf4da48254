package fs

import (
	"strconv"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
)

// stopTimeoutMax bounds stop.timeout, in seconds: a day.
const stopTimeoutMax = 24 * 60 * 60

// processRows are the settings of the program that a container runs.
var processRows = []row{
	{name: "cmd", shape: single, lines: true, def: "none",
		read: ofConfig((*engine.Config).Cmd), set: asText((*engine.Config).SetCmd),
		help: "the program and its arguments, split by the shell's quoting rules without any expansion; no shell runs it; an init such as /sbin/init also gets tmpfs on /run and /tmp, a part of cgroup2 to write to, and container=ctrfs"},
	{name: "env", shape: list, def: "PATH",
		read: ofConfig(envText), list: &listing{(*engine.Config).Env, (*engine.Config).SetEnv},
		help: "KEY=VALUE a line"},
	{name: "cwd", shape: single,
		read: ofConfig((*engine.Config).Cwd), set: asText((*engine.Config).SetCwd),
		help: "working directory inside the container; created if missing, but not without mnt new in namespaces"},
	{name: "hostname", shape: single, def: "the directory's name",
		read: ofView(func(v *engine.View) string { return v.Config.EffectiveHostname(v.Name) }),
		set:  asText((*engine.Config).SetHostname),
		help: "host name inside the container"},
	{name: "user", shape: single, read: ofConfig((*engine.Config).User), set: asText((*engine.Config).SetUser),
		help: "whom the program runs as: a name, a uid, uid:gid or name:group, by the container's own /etc/passwd and /etc/group"},
	{name: "init", shape: single,
		read: ofConfig(func(c *engine.Config) string { return strconv.Itoa(number(c.Init())) }),
		set: asNumber(within(0, 1), func(c *engine.Config, n int64) error {
			c.SetInit(n == 1)
			return nil
		}),
		help: "1 puts a reaper at PID 1, of 12 KiB, with the program as its child: it passes signals on, waits for orphans, and ends as the program does"},
	{name: "rlimits", shape: keyed, def: "none", read: ofConfig(rlimitsText), keys: (*engine.Config).SetRlimit,
		help: "NAME SOFT HARD a line, as of getrlimit(2): nofile 1024 4096; one number is both, unlimited is none, a name alone is taken out"},
	{name: "oom_score_adj", shape: single,
		read: ofConfig(func(c *engine.Config) string { return strconv.FormatInt(c.OOMScoreAdj(), 10) }),
		set: asNumber(func(file, value string) (int64, error) { return parseSigned(file, value, -1000, 1000) },
			(*engine.Config).SetOOMScoreAdj),
		help: "-1000 to 1000: how much likelier the kernel's out-of-memory killer picks the program"},
	{name: "tty", shape: single, live: true,
		read: ofConfig((*engine.Config).TTY), set: asText((*engine.Config).SetTTY),
		help: "1, or its size as COLSxROWS, gives the program a terminal, whose output goes to log; only the size changes while it runs"},
	{name: "console", shape: linked, link: engine.Program.Console, absent: "write 1 into tty, and start it",
		help: "while it runs with a tty, a link to a terminal of the host's that shows it and types: screen c/console; also ctrfs attach"},
	// The link comes before what it depends on: rm -r resets a setting by removing it.
	{name: "stdin", shape: linked, link: engine.Program.Input, absent: "write 1 into stdin.open first",
		help: "while stdin.open is 1, a link to the FIFO that is the program's standard input; it does not end with a writer"},
	{name: "stdin.open", shape: single, live: true,
		read: ofConfig((*engine.Config).StdinOpen), set: asText((*engine.Config).SetStdinOpen),
		help: "1 gives the program a standard input, which is written to stdin; 0 is the end of it, or /dev/null from the start"},
	{name: "stop.signal", shape: single, live: true,
		read: ofConfig((*engine.Config).StopSignal), set: asText((*engine.Config).SetStopSignal),
		help: "the signal that stop sends, by name or number; TERM is RTMIN+3 to systemd, and USR2 to an init of busybox"},
	{name: "stop.timeout", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return strconv.Itoa(c.StopTimeout()) }),
		set: asNumber(within(0, stopTimeoutMax),
			func(c *engine.Config, n int64) error { return c.SetStopTimeout(int(n)) }),
		help: "seconds from stop to KILL"},
	{name: "restart", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return c.Restart().String() }), set: asText((*engine.Config).SetRestart),
		help: "no, on-failure[:N], always or unless-stopped: whether it is started again when its program has ended, after a pause of 100 ms that doubles up to 60 s and is short again after a run of 10 s; stop, rmdir and no end that"},
	{name: "autostart", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return strconv.Itoa(number(c.Autostart())) }),
		set: asNumber(within(0, 1), func(c *engine.Config, n int64) error {
			c.SetAutostart(n == 1)
			return nil
		}),
		help: "1: ctrfs mount starts it, in the background, after the container around it; why it could not, error says"},
	{name: "health", shape: keyed, live: true, exact: true, read: ofConfig(healthText), keys: (*engine.Config).SetHealth,
		help: "cmd PROGRAM..., interval, timeout and start-period in seconds, retries, action none, stop or restart: cmd is run inside, and how that ends is in status and events"},
	{name: "log.max", shape: single, live: true,
		read: ofConfig(func(c *engine.Config) string { return formatLimit(c.LogMax()) }), set: asNumber(parseSize, (*engine.Config).SetLogMax),
		help: "how many bytes of the log are kept, or max: what is older is taken out, and what is left stays at its offset"},
	{name: "config.json", shape: single, lines: true, def: "all of the defaults",
		read: configJSON, set: setConfigJSON,
		help: "the whole configuration as an OCI runtime specification; cp copies a container"},
}

func healthText(c *engine.Config) string {
	var pairs []pair
	for _, key := range engine.HealthKeys {
		pairs = append(pairs, pair{key, c.HealthValue(key)})
	}
	return formatKeyed(pairs)
}

func envText(c *engine.Config) string { return strings.Join(c.Env(), "\n") }

// configJSON spells out what is automatic: each file of settings reads as what a start would use. The default, which is read
// without a container, leaves it automatic.
func configJSON(s source) (string, error) {
	var a engine.Automatic
	if s.c != nil {
		var err error
		if a, err = s.c.Automatic(); err != nil {
			return "", err
		}
	}
	text, err := s.view.Config.OCI(a)
	return string(text), err
}

// setConfigJSON replaces the whole configuration; what the text leaves out is for [engine.ParseOCI] to say.
func setConfigJSON(_, text string) (func(*engine.Config) error, error) {
	parsed, err := engine.ParseOCI([]byte(text))
	if err != nil {
		return nil, err
	}
	return func(c *engine.Config) error { *c = *parsed; return nil }, nil
}
