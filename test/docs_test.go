package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPages runs what the pages of docs/ show: their blocks marked console are one transcript each page.
func TestPages(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal("no pages", err)
	}
	ran := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		session := consoles(string(text))
		if strings.TrimSpace(session) == "" {
			continue
		}
		ran++
		t.Run(filepath.Base(page), func(t *testing.T) {
			tr, err := Parse(page, session)
			if err != nil {
				t.Fatal(err)
			}
			tr.Shell = []string{"bash"}
			requirePrograms(t, []string{"bash", "nsenter", "ip", "nft"})
			tr.Run(mountFor(t, strings.Contains(session, "networks/")).Shell("bash"), func(failure string) { t.Error(failure) })
		})
	}
	if ran == 0 {
		t.Error("no page shows a session: this test shows nothing")
	}
}

// consoles blanks everything but the blocks marked console, so that lines keep their numbers.
func consoles(page string) string {
	var out strings.Builder
	inside := false
	for line := range strings.Lines(page) {
		fence := strings.HasPrefix(line, "```")
		if inside && !fence {
			out.WriteString(line)
		} else {
			out.WriteString("\n")
		}
		if fence {
			inside = strings.TrimSpace(line) == "```console"
		}
	}
	return out.String()
}
