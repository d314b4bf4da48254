package fs

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/ctrfs/ctrfs/engine"
)

// parsed is what Prometheus makes of a metrics file: the kind of each family, and the value of each series.
type parsed struct {
	kinds, units map[string]string
	series       map[string]float64
}

// parseMetrics has Prometheus parse a text. Its parser takes more than the format allows: what it does not check is checked here.
func parseMetrics(text string) (*parsed, error) {
	out := &parsed{map[string]string{}, map[string]string{}, map[string]float64{}}
	p := textparse.NewOpenMetricsParser([]byte(text), labels.NewSymbolTable())
	family := ""
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		switch entry {
		case textparse.EntryType:
			name, kind := p.Type()
			family = string(name)
			if out.kinds[family] != "" {
				return nil, fmt.Errorf("%s is there twice", family)
			}
			out.kinds[family] = string(kind)
		case textparse.EntryUnit:
			name, unit := p.Unit()
			if string(name) != family || !strings.HasSuffix(family, "_"+string(unit)) {
				return nil, fmt.Errorf("unit %s of %s", unit, name)
			}
			out.units[family] = string(unit)
		case textparse.EntryHelp:
			if name, help := p.Help(); string(name) != family || len(help) == 0 {
				return nil, fmt.Errorf("help %q of %s", help, name)
			}
		case textparse.EntrySeries:
			_, _, value := p.Series()
			var l labels.Labels
			p.Labels(&l)
			if name := l.Get(model.MetricNameLabel); name != family+suffixes[out.kinds[family]] {
				return nil, fmt.Errorf("%s in the family %s", name, family)
			}
			if _, twice := out.series[l.String()]; twice {
				return nil, fmt.Errorf("%s twice", l)
			}
			out.series[l.String()] = value
		}
	}
}

// TestMetrics: Prometheus's own parser reads the file, and finds the numbers of stats in it.
func TestMetrics(t *testing.T) {
	e := newMemEngine()
	for _, name := range []string{"idle", "web"} {
		c, err := e.Create(engine.Caller{}, nil, name, engine.Owner{})
		if err != nil {
			t.Fatal(err)
		}
		c.(*memContainer).view.Config.SetCmd("x")
	}
	e.get("web").Start(engine.Caller{})
	text := metricsText(&tree{engine: e}, nil)
	p, err := parseMetrics(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for series, want := range map[string]float64{
		`{__name__="ctrfs_container_cpu_usage_seconds_total", container="web"}`: 12e-6,
		`{__name__="ctrfs_container_memory_bytes", container="idle"}`:           4096,
		`{__name__="ctrfs_container_active", container="idle"}`:                 0,
		`{__name__="ctrfs_container_active", container="web"}`:                  1,
		`{__name__="ctrfs_container_info", container="idle", id="c000001"}`:     1,
	} {
		if have, ok := p.series[series]; !ok || have != want {
			t.Errorf("%s is %v (%v), want %v", series, have, ok, want)
		}
	}
	if p.kinds["ctrfs_container_cpu_usage_seconds"] != "counter" || p.units["ctrfs_container_memory_bytes"] != "bytes" {
		t.Errorf("kinds %v, units %v", p.kinds, p.units)
	}
	if strings.Contains(text, "network") {
		t.Errorf("a family without any number is told:\n%s", text)
	}
}

// TestMetricsTable: each family is whole, and is one that OpenMetrics allows.
func TestMetricsTable(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range metrics {
		if seen[m.name] || m.help == "" || (m.of == nil) == (m.stat == "") || strings.HasSuffix(m.name, "_total") {
			t.Errorf("%s is not whole", m.name)
		}
		if seconds := strings.HasSuffix(m.name, "_seconds"); seconds != (m.unit == "seconds") || m.micro && !seconds {
			t.Errorf("%s has the unit %q", m.name, m.unit)
		}
		seen[m.name] = true
	}
}

// FuzzMetrics: whatever a container is called, whatever it counts, Prometheus reads it back.
func FuzzMetrics(f *testing.F) {
	f.Add("pod/web", uint64(12))
	f.Add("a\"b\\c\nd", ^uint64(0))
	f.Fuzz(func(t *testing.T, path string, n uint64) {
		all := []sample{{&engine.View{Path: path}, []engine.Stat{{Name: "memory.current", Value: n}}}}
		var b strings.Builder
		for i := range metrics {
			if metrics[i].stat == "memory.current" {
				metrics[i].write(&b, all)
			}
		}
		p, err := parseMetrics(b.String() + metricsEnd)
		if err != nil {
			t.Fatalf("%v in\n%s", err, &b)
		}
		want := labels.FromStrings(model.MetricNameLabel, "ctrfs_container_memory_bytes", "container", strings.ToValidUTF8(path, "\ufffd"))
		if have, ok := p.series[want.String()]; !ok || have != float64(n) {
			t.Errorf("%s is %v (%v), want %v; all: %v", want, have, ok, float64(n), p.series)
		}
	})
}
