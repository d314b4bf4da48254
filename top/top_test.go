package top

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const before = `CONTAINER STATE   CPU_USEC MEMORY     MEMORY_PEAK PIDS IO_READ IO_WRITE NET_RX NET_TX
idle      created 0        0          0           0    -       -        -      -
pod       running 1000     1048576    2097152     1    4096    0        0      0
pod/web   running 2000     1610612736 1610612736  12   0       0        100    0
`

const after = `CONTAINER STATE   CPU_USEC MEMORY     MEMORY_PEAK PIDS IO_READ IO_WRITE NET_RX NET_TX
idle      created 0        0          0           0    -       -        -      -
new       running 7        1023       1024        1    0       0        0      0
pod       running 501000   1048576    2097152     1    8192    0        0      0
pod/web   exited  102000   1610612736 1610612736  12   0       0        50     2048
`

// shown is a table of two readings that lie two seconds apart.
func shown(t *testing.T) *table {
	t.Helper()
	table := newTable("/ctr")
	for i, text := range []string{before, after} {
		all, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		table.add(reading{time.Unix(int64(2*i), 0), all})
	}
	return table
}

// screen renders with trailing spaces removed.
func screen(t *table, width, height int) string {
	var b strings.Builder
	for _, line := range t.render(width, height) {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

func TestRender(t *testing.T) {
	for _, c := range []struct {
		width, height int
		keys          string
		want          string
	}{
		{200, 0, "", `/ctr: 4 containers, 2 active; by CPU%
CONTAINER STATE         CPU%   MEMORY     PIDS   READ/s  WRITE/s     RX/s     TX/s     TIME     PEAK
pod       running       25.0     1.0M        1     2.0K        0        0        0     0.50     2.0M
pod/web   exited         5.0     1.5G       12        0        0        -     1.0K     0.10     1.5G
idle      created        0.0        0        0        -        -        -        -     0.00        0
new       running          -     1023        1        -        -        -        -     0.00     1.0K
`},
		{40, 4, "m", "/ctr: 4 containers, 2 active; by MEMORY\nCONTAINER STATE         CPU%   MEMORY\npod/web   exited         5.0     1.5G\npod       running       25.0     1.0M\n"},
		{40, 4, "n Down", "/ctr: 4 containers, 2 active; by CONTAIN\nCONTAINER STATE         CPU%   MEMORY\nnew       running          -     1023\npod       running       25.0     1.0M\n"},
		{27, 3, "n r End", "/ctr: 4 containers, 2 activ\nCONTAINE STATE         CPU%\nidle     created        0.0\n"},
		{18, 3, "n PgDn PgDn PgDn", "/ctr: 4 containers\nCONTAINE STATE\npod/web  exited\n"},
		{3, 3, "n", "/ct\nCON\nidl\n"},
		{80, 2, "", ""}, {80, 1, "", ""}, {1, 1, "", ""},
	} {
		table := shown(t)
		for key := range strings.FieldsSeq(c.keys) {
			if !table.key(key, 2) {
				t.Errorf("%s ends it", key)
			}
		}
		have := screen(table, c.width, c.height)
		if c.want != "" && have != c.want {
			t.Errorf("%dx%d after %q:\n%swant\n%s", c.width, c.height, c.keys, have, c.want)
		}
		for line := range strings.Lines(have) {
			if len(line) > c.width+1 {
				t.Errorf("%q is wider than %d", line, c.width)
			}
		}
	}
}

// TestKeys: every column can be reached, in both directions, and some keys end the program.
func TestKeys(t *testing.T) {
	table := shown(t)
	for range titles() {
		table.key("Right", 1)
		table.render(80, 10)
	}
	if table.by != 2 {
		t.Errorf("once around is column %d", table.by)
	}
	table.key("<", 1)
	if titles()[table.by] != "STATE" {
		t.Errorf("left of CPU%% is %s", titles()[table.by])
	}
	for _, key := range []string{"q", "Esc", "Ctrl-C"} {
		if table.key(key, 1) {
			t.Errorf("%s does not end it", key)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", "help\n", "CONTAINER\n", "CONTAINER STATE PIDS\na running\n", "CONTAINER STATE PIDS\na running x\n",
		"CONTAINER STATE PIDS\na running -1\n"} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// TestOnce reads a directory that is no mount, which it cannot tell.
func TestOnce(t *testing.T) {
	dir := t.TempDir()
	var b strings.Builder
	if err := Once(context.Background(), &b, dir, time.Millisecond); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("of an empty directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "stats"), []byte(after), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Once(context.Background(), &b, dir, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(b.String(), "\n"); len(lines) != 6 || !strings.HasPrefix(lines[1], "idle ") || !strings.HasSuffix(lines[4], "1.5G") {
		t.Errorf("printed\n%s", b.String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Once(ctx, &b, dir, time.Hour); err != context.Canceled {
		t.Errorf("interrupted: %v", err)
	}
}

// FuzzParse: what is taken can be shown on a terminal of any size.
func FuzzParse(f *testing.F) {
	f.Add(after, 80, 24)
	f.Add("CONTAINER STATE CPU_USEC\nx y 18446744073709551615\nx y 3\n", 1, 3)
	f.Fuzz(func(t *testing.T, text string, width, height int) {
		all, err := parse(text)
		if err != nil {
			return
		}
		table := newTable("/ctr")
		table.add(reading{time.Unix(1, 0), all})
		table.add(reading{time.Unix(2, 0), all})
		width, height = 1+min(max(width, 0), 300), 1+min(max(height, 0), 100)
		for _, key := range []string{"End", "r", "Left", "PgUp"} {
			table.key(key, height)
			for _, line := range table.render(width, height) {
				if len(line) > width {
					t.Errorf("%q is wider than %d", line, width)
				}
			}
		}
	})
}
