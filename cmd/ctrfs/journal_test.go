package main

import "testing"

// TestDatagram compares with systemd's description of its native protocol.
func TestDatagram(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"a text", "MESSAGE=a text\n"},
		{"", "MESSAGE=\n"},
		{"two\nlines", "MESSAGE\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n"},
	} {
		if got := string(datagram(map[string]string{"MESSAGE": c.value})); got != c.want {
			t.Errorf("%q gives %q, want %q", c.value, got, c.want)
		}
	}
}
