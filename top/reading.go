package top

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// reading is the stats file at one moment.
type reading struct {
	at         time.Time
	containers []container
}

// container is one line of it.
type container struct {
	name, state string
	numbers     map[string]uint64 // by the title of the column; without those that are a dash
}

// The columns that are no numbers.
const (
	nameColumn  = "CONTAINER"
	stateColumn = "STATE"
)

// read takes one reading of the mount at dir.
func read(dir string) (reading, error) {
	file := filepath.Join(dir, "stats")
	text, err := os.ReadFile(file)
	if err != nil {
		return reading{}, fmt.Errorf("%w; is ctrfs mounted there?", err)
	}
	all, err := parse(string(text))
	if err != nil {
		return reading{}, fmt.Errorf("%s: %w", file, err)
	}
	return reading{time.Now(), all}, nil
}

// parse reads a table of words with titles above.
func parse(text string) (all []container, err error) {
	head, rest, _ := strings.Cut(text, "\n")
	titles := strings.Fields(head)
	if len(titles) < 2 || titles[0] != nameColumn || titles[1] != stateColumn {
		return nil, fmt.Errorf("the first line is %.80q, not the titles of %s, %s and numbers", head, nameColumn, stateColumn)
	}
	for line := range strings.Lines(rest) {
		words := strings.Fields(line)
		if len(words) != len(titles) {
			return nil, fmt.Errorf("the line %.80q has not one word for each of %d titles", line, len(titles))
		}
		c := container{words[0], words[1], map[string]uint64{}}
		for i, word := range words[2:] {
			if n, err := strconv.ParseUint(word, 10, 64); err == nil {
				c.numbers[titles[i+2]] = n
			} else if word != "-" {
				return nil, fmt.Errorf("%.80q in column %s is no number", word, titles[i+2])
			}
		}
		all = append(all, c)
	}
	return all, nil
}
