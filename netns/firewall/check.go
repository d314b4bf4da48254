package firewall

import (
	"bytes"
	"errors"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func isGone(err error) bool { return errors.Is(err, unix.ENOENT) }

// notGone leaves out the error that says that there is no such table, chain or set.
func notGone(err error) error {
	if isGone(err) {
		return nil
	}
	return err
}

// compare says whether the kernel's table is ours and holds that. It takes several dumps, so a change in between may be half seen; who
// is told of changes compares again.
func (t *Table) compare(c content) (ok bool, err error) {
	r := t.reader()
	if _, err := r.ListTableOfFamily(t.table.Name, t.table.Family); err != nil {
		return false, notGone(err)
	}
	if ok, err := t.compareChains(r); !ok {
		return false, notGone(err)
	}
	ok, err = t.compareSets(r, c)
	return ok, notGone(err)
}

func (t *Table) compareChains(r *nftables.Conn) (bool, error) {
	listed, err := r.ListChainsOfTableFamily(t.table.Family)
	if err != nil {
		return false, err
	}
	found := map[string]*nftables.Chain{}
	for _, ch := range listed {
		if ch.Table.Name == t.table.Name {
			found[ch.Name] = ch
		}
	}
	if len(found) != len(chains) {
		return false, nil
	}
	for _, ch := range chains {
		if got, ok := found[ch.name]; !ok || !ch.is(got) {
			return false, nil
		}
		rules, err := r.GetRules(t.table, ch.make(t.table))
		if err != nil {
			return false, err
		}
		if len(rules) != len(ch.rules) {
			return false, nil
		}
		for i, want := range ch.rules {
			if !want.is(rules[i]) {
				return false, nil
			}
		}
	}
	return true, nil
}

func (ch chain) is(got *nftables.Chain) bool {
	if ch.hook == nil {
		return got.Hooknum == nil
	}
	return got.Hooknum != nil && *got.Hooknum == *ch.hook && *got.Priority == ch.priority && got.Type == ch.kind &&
		got.Policy != nil && *got.Policy == nftables.ChainPolicyAccept
}

// is compares a rule with what the kernel says it holds, both as they would be sent: the library reads only what it also writes.
func (r rule) is(got *nftables.Rule) bool {
	if len(got.Exprs) != len(r.exprs) || !bytes.Equal(got.UserData, r.comment()) {
		return false
	}
	for i, want := range r.exprs {
		if got.Exprs[i] == nil {
			return false
		}
		a, errA := expr.Marshal(byte(nftables.TableFamilyINet), want)
		b, errB := expr.Marshal(byte(nftables.TableFamilyINet), got.Exprs[i])
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			return false
		}
	}
	return true
}

func (t *Table) compareSets(r *nftables.Conn, c content) (bool, error) {
	listed, err := r.GetSets(t.table)
	if err != nil {
		return false, err
	}
	if len(listed) != len(kinds) {
		return false, nil
	}
	found := map[string]*nftables.Set{}
	for _, s := range listed {
		found[s.Name] = s
	}
	for _, k := range kinds {
		got, want := found[k.name], k.set(t.table)
		if got == nil || got.KeyType.Name != want.KeyType.Name || got.DataType.Name != want.DataType.Name ||
			got.IsMap != want.IsMap || got.Interval != want.Interval {
			return false, nil
		}
		elements, err := r.GetSetElements(want)
		if err != nil {
			return false, err
		}
		if len(elements) != len(c[k.name]) {
			return false, nil
		}
		for _, e := range elements {
			if want, ok := c[k.name][string(e.Key)]; !ok || want != (element{string(e.KeyEnd), string(e.Val)}) {
				return false, nil
			}
		}
	}
	return true, nil
}
