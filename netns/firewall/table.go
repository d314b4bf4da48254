package firewall

import (
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
)

// Table is our table, or the wish to have one. Its methods may be called by several goroutines at once.
type Table struct {
	table *nftables.Table
	ns    int
	wire  wire // sends with mu locked

	mu    sync.Mutex
	held  content // as of the last Apply that succeeded, nil before and after Remove; guarded by mu
	ports []Port  // likewise
}

// Open names a table in the network namespace of the calling process. Nothing is made or changed yet.
func Open(table string) *Table { return OpenIn(0, table) }

// OpenIn names a table in the network namespace of a descriptor, which has to stay open.
func OpenIn(ns int, table string) *Table {
	return &Table{table: &nftables.Table{Name: table, Family: nftables.TableFamilyINet}, ns: ns, wire: wire{ns: ns}}
}

// Apply makes the table what is wanted, whatever it was before, in one transaction: packets see it as it was or as it is to be, and
// after an error it is as it was. The first time, and when somebody else has changed it, it is made anew; otherwise only the
// elements that differ are sent.
//
// Connections go on through a port that is not published any more. Of UDP, which has no connections, flows that do not go where
// their port says now are forgotten; an error of that comes after the table is changed.
func (t *Table) Apply(w Wanted) error {
	next, err := compile(w)
	if err != nil {
		return fmt.Errorf("table %s: %w", t.table.Name, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.bring(next); err != nil {
		return fmt.Errorf("table %s: %w", t.table.Name, err)
	}
	before := t.ports
	t.held, t.ports = next, slices.Clone(w.Ports)
	if err := forget(t.ns, before, t.ports); err != nil {
		return fmt.Errorf("table %s: flows: %w", t.table.Name, err)
	}
	return nil
}

// bring makes the kernel's table hold what is next, by the shortest way that is sure.
func (t *Table) bring(next content) error {
	if t.held == nil {
		// A server that has been started anew finds its table as it left it.
		if ok, err := t.compare(next); ok && err == nil {
			return nil
		}
		return t.replace(next)
	}
	changed, err := t.amend(next)
	if err != nil {
		return t.replace(next) // it is not what it was
	}
	if !changed {
		if ok, err := t.compare(next); !ok || err != nil {
			return t.replace(next)
		}
	}
	return nil
}

// replace makes the table anew in one transaction. To add it first is how one deletes what may not be there.
func (t *Table) replace(next content) error {
	messages, err := build(func(c *nftables.Conn) error {
		c.AddTable(t.table)
		c.DelTable(t.table)
		c.AddTable(t.table)
		for _, k := range kinds {
			if err := c.AddSet(k.set(t.table), nil); err != nil {
				return err
			}
		}
		for _, ch := range chains {
			made := c.AddChain(ch.make(t.table))
			for _, r := range ch.rules {
				c.AddRule(&nftables.Rule{Table: t.table, Chain: made, Exprs: r.exprs, UserData: r.comment()})
			}
		}
		_, err := t.differ(c, content{}, next)
		return err
	})
	if err != nil {
		return err
	}
	return t.wire.send(messages)
}

// amend sends what differs from the last time, and says whether anything did.
func (t *Table) amend(next content) (changed bool, err error) {
	messages, err := build(func(c *nftables.Conn) (err error) {
		changed, err = t.differ(c, t.held, next)
		return err
	})
	if err != nil || !changed {
		return changed, err
	}
	return changed, t.wire.send(messages)
}

// few elements go into a message: the length of an attribute is sixteen bits.
const few = 500

// differ adds to a transaction the elements that go and those that come.
func (t *Table) differ(c *nftables.Conn, old, next content) (changed bool, err error) {
	for _, k := range kinds {
		set := k.set(t.table)
		for part := range slices.Chunk(old.without(next, k.name), few) {
			changed = true
			if err := c.SetDeleteElements(set, part); err != nil {
				return changed, err
			}
		}
		for part := range slices.Chunk(next.without(old, k.name), few) {
			changed = true
			if err := c.SetAddElements(set, part); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

// make is a chain as the library wants it.
func (ch chain) make(t *nftables.Table) *nftables.Chain {
	out := &nftables.Chain{Name: ch.name, Table: t}
	if ch.hook != nil {
		policy := nftables.ChainPolicyAccept
		out.Type, out.Hooknum, out.Priority, out.Policy = ch.kind, ch.hook, &ch.priority, &policy
	}
	return out
}

// Remove deletes the table; one that is not there is no error. Flows that were redirected go on.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	messages, err := build(func(c *nftables.Conn) error {
		c.AddTable(t.table)
		c.DelTable(t.table)
		return nil
	})
	if err == nil {
		err = t.wire.send(messages)
	}
	if err != nil {
		return fmt.Errorf("remove table %s: %w", t.table.Name, err)
	}
	t.held, t.ports = nil, nil
	t.wire.close()
	return nil
}

// Check says whether the kernel's table is what was applied last, rule by rule and element by element. Before the first Apply and
// after Remove, that is no table at all.
func (t *Table) Check() (ok bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		_, err := t.reader().ListTableOfFamily(t.table.Name, t.table.Family)
		return isGone(err), notGone(err)
	}
	return t.compare(t.held)
}

// reader is for dumps.
func (t *Table) reader() *nftables.Conn { return reader(t.ns) }

func reader(ns int) *nftables.Conn {
	c, _ := nftables.New(nftables.WithNetNSFd(ns)) // fails only when it is to connect at once
	return c
}
