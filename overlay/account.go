package overlay

import (
	"strconv"
	"strings"
)

// The accounts of the root called host are root, nobody, and the host's system accounts: programs in /usr belong to
// them and drop to them (www-data, postgres). The people who work on the host are nobody's business in a container, so
// neither their accounts nor their memberships come along; nor does any password.
const (
	firstHuman = 1000  // login.defs(5) UID_MIN, and GID_MIN, of all distributions
	overflow   = 65534 // nobody; Documentation/admin-guide/sysctl/fs.rst, overflowuid
)

// What a host lacks of these is added: every program may count on them.
const (
	rootAccount   = "root:*:0:0:root:/root:/bin/sh"
	nobodyAccount = "nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"
	rootGroup     = "root:*:0:"
	nobodyGroup   = "nogroup:*:65534:"
)

// systemAccounts filters the text of a passwd(5) file, and returns the names that it kept.
func systemAccounts(text string) (string, map[string]bool) {
	lines, kept := systemLines(text, 7, rootAccount, nobodyAccount, nil)
	return lines, kept
}

// systemGroups filters the text of a group(5) file; only accounts in members stay members.
func systemGroups(text string, members map[string]bool) string {
	lines, _ := systemLines(text, 4, rootGroup, nobodyGroup, func(fields []string) {
		var stay []string
		for _, name := range strings.Split(fields[3], ",") {
			if members[name] {
				stay = append(stay, name)
			}
		}
		fields[3] = strings.Join(stay, ",")
	})
	return lines
}

// systemLines keeps the lines of that many fields whose third is a system's number, with the password locked, and adds
// the two that must be there. The directives of NIS ("+::::::") have no number and fall away like every malformed line.
func systemLines(text string, arity int, root, nobody string, edit func(fields []string)) (string, map[string]bool) {
	var out []string
	names, ids := map[string]bool{}, map[int]bool{}
	keep := func(line string) {
		fields := strings.Split(line, ":")
		if len(fields) != arity || fields[0] == "" || names[fields[0]] {
			return
		}
		id, err := strconv.Atoi(fields[2])
		if err != nil || id < 0 || id >= firstHuman && id != overflow {
			return
		}
		names[fields[0]], ids[id] = true, true
		fields[1] = "*"
		if edit != nil {
			edit(fields)
		}
		out = append(out, strings.Join(fields, ":"))
	}
	for line := range strings.Lines(text) {
		keep(strings.TrimSuffix(line, "\n"))
	}
	if !ids[0] {
		keep(root)
	}
	if !ids[overflow] {
		keep(nobody)
	}
	return strings.Join(out, "\n") + "\n", names
}
