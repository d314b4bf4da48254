package top

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gdamore/tcell/v3"
)

// plainWidth is how wide a table without a terminal is: as wide as it wants.
const plainWidth = 1 << 10

// Once writes one table as plain text, of two readings that lie an interval apart.
func Once(ctx context.Context, w io.Writer, dir string, interval time.Duration) error {
	t := newTable(dir)
	for i := range 2 {
		if i > 0 {
			select {
			case <-time.After(interval):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		r, err := read(dir)
		if err != nil {
			return err
		}
		t.add(r)
	}
	for _, line := range t.render(plainWidth, 0)[1:] {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// Run shows the table on the terminal, anew after each interval, until a key or the end of ctx ends it.
func Run(ctx context.Context, dir string, interval time.Duration) error {
	t := newTable(dir)
	first, err := read(dir)
	if err != nil {
		return err
	}
	t.add(first)
	screen, err := tcell.NewScreen()
	if err == nil {
		err = screen.Init()
	}
	if err != nil {
		return fmt.Errorf("the terminal: %w; --once needs none", err)
	}
	defer screen.Fini()
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		draw(screen, t)
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
			r, err := read(dir)
			if err != nil {
				return err
			}
			t.add(r)
		case event, ok := <-screen.EventQ():
			if !ok || !take(screen, t, event) {
				return nil
			}
		}
	}
}

// take does what an event asks for; false ends the program.
func take(screen tcell.Screen, t *table, event tcell.Event) bool {
	switch event := event.(type) {
	case *tcell.EventResize:
		screen.Sync()
	case *tcell.EventKey:
		name := event.Str()
		if event.Key() != tcell.KeyRune {
			name = event.Name()
		}
		_, height := screen.Size()
		return t.key(name, max(1, height-2))
	}
	return true
}

// draw puts the table on the screen.
func draw(screen tcell.Screen, t *table) {
	width, height := screen.Size()
	screen.Clear()
	if width > 0 && height > 0 {
		for y, line := range t.render(width, height) {
			style := tcell.StyleDefault
			if y == 1 {
				line, style = fmt.Sprintf("%-*s", width, line), style.Reverse(true)
			}
			screen.PutStrStyled(0, y, line, style)
		}
	}
	screen.Show()
}
