package overlay

import (
	"strconv"
	"strings"
	"testing"
)

func TestSystemAccounts(t *testing.T) {
	tests := []struct{ name, passwd, group, wantPasswd, wantGroup string }{
		{"nothing", "", "", rootAccount + "\n" + nobodyAccount, rootGroup + "\n" + nobodyGroup},
		{"people and passwords go", "root:x:0:0:r:/root:/bin/zsh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\npg:hash:101:104::/:/bin/sh\nnobody:x:65534:65534::/:/x",
			"root:x:0:ann\ndocker:x:999:ann,pg\nann:x:1000:\nnogroup:x:65534:",
			"root:*:0:0:r:/root:/bin/zsh\npg:*:101:104::/:/bin/sh\nnobody:*:65534:65534::/:/x", "root:*:0:\ndocker:*:999:pg\nnogroup:*:65534:"},
		{"malformed lines go", "+::::::\n#x\n\nroot:x:0:0\na:x:-1:0:::\nb:x:1e1:0:::\n:x:5:5:::\nc:x:6:6:::\nc:x:7:7:::", "+\nx:y:z\n",
			"c:*:6:6:::\n" + rootAccount + "\n" + nobodyAccount, rootGroup + "\n" + nobodyGroup},
	}
	for _, test := range tests {
		passwd, members := systemAccounts(test.passwd)
		if passwd != test.wantPasswd+"\n" {
			t.Errorf("%s: passwd is\n%s", test.name, passwd)
		}
		if group := systemGroups(test.group, members); group != test.wantGroup+"\n" {
			t.Errorf("%s: group is\n%s", test.name, group)
		}
	}
}

// Whatever a host's file holds, no person and no password comes through, and root and nobody are there.
func FuzzSystemAccounts(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/:/bin/sh\n")
	f.Add("+@netgroup::::::\n:::::::\n\x00:x:\n")
	f.Fuzz(func(t *testing.T, text string) {
		out, _ := systemAccounts(text)
		ids := map[int]bool{}
		for line := range strings.Lines(out) {
			fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
			if len(fields) != 7 || fields[1] != "*" {
				t.Fatalf("%q is not a locked account", line)
			}
			id, err := strconv.Atoi(fields[2])
			if err != nil || id < 0 || id >= firstHuman && id != overflow {
				t.Fatalf("%q is nobody of the system", line)
			}
			ids[id] = true
		}
		if again, _ := systemAccounts(out); again != out || !ids[0] || !ids[overflow] {
			t.Fatalf("not stable, or incomplete:\n%s", out)
		}
	})
}
