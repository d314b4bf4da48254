package fs

import (
	"github.com/ctrfs/ctrfs/engine"
)

// rootRows are the files of the mount's own directory: what concerns every container, or none.
var rootRows = []row{
	{name: "help", shape: table, read: inRoot(helpText),
		help: "every file of the tree, one line each"},
	{name: "version", shape: single, read: inRoot(func(t *tree) string { return t.version }),
		help: "version, commit and Go version of the server"},
	{name: "host", shape: keyed, read: inRoot(hostText),
		help: "what this host offers, one feature a line, and why not if not"},
	{name: "ps", shape: table, mine: true, read: func(s source) (string, error) { return psAll(s.tree, s.sight) },
		help: "every process of every container"},
	{name: "stats", shape: table, mine: true, read: inSight(statsAll),
		help: "one line a container: cpu in microseconds, the rest in bytes or numbers"},
	{name: "metrics", shape: table, mine: true, read: inSight(metricsText),
		help: "the same figures as OpenMetrics text, for Prometheus and its kin"},
	{name: "events", shape: stream, mine: true, feed: func(s source) engine.Events { return s.sight.events(s.tree.engine.Events(nil)) },
		help: "what happens to containers, one JSON object a line, from the opening on"},
	{name: "networks", shape: nested, shelf: &networkShelf,
		help: "mkdir networks/NAME makes a network, which containers join by their file net; bridge is always there; its files are listed below"},
	{name: "images", shape: nested, shelf: &imageShelf,
		help: "mkdir images/NAME makes an image, which pull or tar fills; its files are listed below"},
}

// hostText says in one line what a feature is and why it is not there: `nftables no: modprobe nf_tables`.
func hostText(t *tree) string {
	var pairs []pair
	for _, f := range t.engine.Features() {
		value := f.Value
		if f.Reason != "" {
			value += ": " + f.Reason
		}
		pairs = append(pairs, pair{f.Name, value})
	}
	return formatKeyed(pairs)
}

// each calls do for every container, parents before their children.
func each(e engine.Engine, parent engine.Container, do func(engine.Container)) {
	for _, c := range e.Children(parent) {
		do(c)
		each(e, c, do)
	}
}
