package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A program is a real one, with what a person would write into cmd, and what tells that it works. All use is by way of the
// container: its network is its own, with loopback only, so clients run beside the servers.
type program struct {
	name  string
	cmd   string // run by sh in the container; its output is the log
	want  string // the log's last line
	limit string // memory.max
}

var programs = []program{
	{name: "python3", cmd: `python3 -c "import json, os, socket, ssl, sqlite3
print(json.dumps([os.getpid(), socket.gethostname(), sqlite3.connect(\":memory:\").execute(\"select 6*7\").fetchone()[0]]))"`,
		want: `[1, "python3", 42]`, limit: "128M"},
	{name: "nginx", cmd: `sh -c 'nginx -g "daemon off;" & until python3 -c "
import urllib.request; print(urllib.request.urlopen(\"http://127.0.0.1/\").status)"; do sleep 0.1; done 2>/dev/null; nginx -s stop; wait; echo served'`,
		want: "served", limit: "128M"},
	{name: "redis", cmd: `sh -c 'redis-server --save "" --logfile /tmp/log & until redis-cli ping; do sleep 0.1; done >/dev/null 2>&1; redis-cli set k v; redis-cli get k; redis-cli shutdown; wait'`,
		want: "v", limit: "128M"},
	{name: "postgres", cmd: `sh -c 'set -e; bin=$(echo /usr/lib/postgresql/*/bin); mkdir -p /srv/pg; chown postgres /srv/pg; cd /srv/pg
as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
as $bin/initdb -D db > /dev/null; as $bin/pg_ctl -w -D db -o "-k /tmp" -l log start > /dev/null
as $bin/psql -h /tmp -d postgres -Atc "create table t as select generate_series(1, 1000) n; select sum(n) from t"
as $bin/pg_ctl -w -D db stop > /dev/null'`,
		want: "500500", limit: "512M"},
}

// TestProgramsFromRoot runs real servers from a Debian in a directory, which they may change as they like, and which must
// not have changed afterwards.
func TestProgramsFromRoot(t *testing.T) {
	root, err := DebianRoot()
	Require(t, err)
	m := MountFor(t)
	before, err := TreeHash(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) { (&Tree{m.Instance, t}).run(p, root) })
	}
	if after, err := TreeHash(root); err != nil || after != before {
		t.Errorf("the root has changed: %v", err)
	}
}

// hostHas tells which of the programs this machine has where rootfs host shows them: below /usr.
var hostHas = map[string]string{
	"python3": "/usr/bin/python3", "nginx": "/usr/sbin/nginx", "redis": "/usr/bin/redis-server", "postgres": "/usr/bin/psql",
}

// TestProgramsFromHost runs those that are installed here with no root at all. What their packages have put into /etc is not
// there, so servers that need it are not among them.
func TestProgramsFromHost(t *testing.T) {
	m := MountFor(t)
	for _, p := range programs {
		if p.name == "nginx" {
			continue // wants /etc/nginx
		}
		t.Run(p.name, func(t *testing.T) {
			if _, err := os.Stat(hostHas[p.name]); err != nil {
				t.Skip(err)
			}
			if _, err := exec.Command("getent", "passwd", "postgres").Output(); p.name == "postgres" && err != nil {
				t.Skip("no user postgres:", err)
			}
			(&Tree{m.Instance, t}).run(p, "host")
		})
	}
}

func (m *Tree) run(p program, root string) {
	m.T.Helper()
	if err := os.Mkdir(m.Dir+"/"+p.name, 0o755); err != nil {
		m.T.Fatal(err)
	}
	m.Write(p.name+"/rootfs", root)
	m.Write(p.name+"/cmd", p.cmd)
	m.Write(p.name+"/memory.max", p.limit)
	begin := time.Now()
	m.Write(p.name+"/start", "1")
	exit := m.waitFor(p.name, 2*time.Minute)
	log := m.Read(p.name + "/log")
	lines := strings.Split(log, "\n")
	if exit != "0" || lines[len(lines)-1] != p.want {
		m.T.Errorf("exit %s, log\n%s\nwanted at its end\n%s", exit, log, p.want)
	}
	m.T.Logf("took %v", time.Since(begin).Round(time.Millisecond))
	if err := os.Remove(m.Dir + "/" + p.name); err != nil {
		m.T.Error(err)
	}
}

// waitFor reads wait, and kills the container when it takes too long.
func (m *Tree) waitFor(name string, limit time.Duration) string {
	m.T.Helper()
	overdue := time.AfterFunc(limit, func() { os.WriteFile(m.Dir+"/"+name+"/cgroup.kill", []byte("1\n"), 0) })
	defer overdue.Stop()
	begin := time.Now()
	exit := m.Read(name + "/wait")
	if time.Since(begin) > limit {
		return fmt.Sprintf("%s, killed after %v", exit, limit)
	}
	return exit
}
