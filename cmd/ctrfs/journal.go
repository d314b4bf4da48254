package main

import (
	"context"
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// journalHandler logs to the systemd journal.
type journalHandler struct {
	level  slog.Level
	fields map[string]string
}

// newJournalHandler returns nil where there is no journal.
func newJournalHandler(level slog.Level) slog.Handler {
	if !journal.Enabled() {
		return nil
	}
	return &journalHandler{level: level, fields: map[string]string{"SYSLOG_IDENTIFIER": "ctrfs"}}
}

// Enabled implements [slog.Handler].
func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// priorities maps slog's levels to the journal's, highest first.
var priorities = []struct {
	level    slog.Level
	priority journal.Priority
}{
	{slog.LevelError, journal.PriErr},
	{slog.LevelWarn, journal.PriWarning},
	{slog.LevelInfo, journal.PriInfo},
}

// Handle implements [slog.Handler].
func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	fields := h.with(nil)
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		fields[fieldName(a.Key)] = a.Value.String()
		text += " " + a.String()
		return true
	})
	priority := journal.PriDebug
	for _, p := range priorities {
		if r.Level >= p.level {
			priority = p.priority
			break
		}
	}
	return journal.Send(text, priority, fields)
}

// WithAttrs implements [slog.Handler].
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{level: h.level, fields: h.with(attrs)}
}

// WithGroup implements [slog.Handler]. Nothing here uses groups.
func (h *journalHandler) WithGroup(string) slog.Handler { return h }

func (h *journalHandler) with(attrs []slog.Attr) map[string]string {
	fields := make(map[string]string, len(h.fields)+len(attrs))
	for k, v := range h.fields {
		fields[k] = v
	}
	for _, a := range attrs {
		fields[fieldName(a.Key)] = a.Value.String()
	}
	return fields
}

// fieldName makes a key acceptable to the journal: upper case letters, digits and underscores (systemd.journal-fields(7)).
func fieldName(key string) string {
	return "CTRFS_" + strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(key))
}
