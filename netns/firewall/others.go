package firewall

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Tables returns the names of the tables of our family that begin so, sorted: what an instance that is no more has left.
func Tables(prefix string) ([]string, error) { return tablesIn(0, prefix) }

func tablesIn(ns int, prefix string) ([]string, error) {
	listed, err := reader(ns).ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var out []string
	for _, t := range listed {
		if strings.HasPrefix(t.Name, prefix) {
			out = append(out, t.Name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Obstacles names the chains that let a forwarded packet pass only if a rule says so: "chain FORWARD of table ip filter (policy
// drop)". To accept a packet in our table does not help against those; only who made them can let ours through. A chain that
// drops in another way, and the tables of iptables-legacy, are not found.
func Obstacles() ([]string, error) { return obstaclesIn(0) }

func obstaclesIn(ns int) ([]string, error) {
	r := reader(ns)
	listed, err := r.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	families := map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	}
	var out []string
	for _, ch := range listed {
		family, ok := families[ch.Table.Family]
		if !ok || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward {
			continue
		}
		how := ""
		if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			how = "policy drop"
		} else if rules, err := r.GetRules(ch.Table, ch); err == nil && len(rules) > 0 {
			how = ends(rules[len(rules)-1])
		}
		if how != "" {
			out = append(out, fmt.Sprintf("chain %s of table %s %s (%s)", ch.Name, family, ch.Table.Name, how))
		}
	}
	slices.Sort(out)
	return out, nil
}

// ends says how a chain ends when its last rule lets nothing pass, whatever the packet.
func ends(last *nftables.Rule) string {
	for _, e := range last.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return "ends in reject"
		case *expr.Verdict:
			if e.Kind == expr.VerdictDrop {
				return "ends in drop"
			}
			return ""
		case *expr.Target:
			if e.Name == "REJECT" {
				return "ends in reject"
			}
			return ""
		default:
			return ""
		}
	}
	return ""
}
