package main

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"strconv"
	"strings"
)

// journalSocket is where the systemd journal takes messages, in the protocol that systemd calls its native one: fields as in
// systemd.journal-fields(7), in one datagram. The module that speaks it binds its own end too, to an abstract name, which is
// open to every process in the network namespace.
const journalSocket = "/run/systemd/journal/socket"

// journalHandler logs to the systemd journal.
type journalHandler struct {
	level  slog.Level
	fields map[string]string
}

// newJournalHandler returns nil where there is no journal.
func newJournalHandler(level slog.Level) slog.Handler {
	conn, err := net.Dial("unixgram", journalSocket)
	if err != nil {
		return nil
	}
	conn.Close() // each message opens its own: journald may be restarted in between
	return &journalHandler{level: level, fields: map[string]string{"SYSLOG_IDENTIFIER": "ctrfs"}}
}

// Enabled implements [slog.Handler].
func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// priorities maps slog's levels to those of syslog(3), highest first.
var priorities = []struct {
	level    slog.Level
	priority int
}{
	{slog.LevelError, 3},
	{slog.LevelWarn, 4},
	{slog.LevelInfo, 6},
	{slog.LevelDebug, 7},
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
	fields["MESSAGE"] = text
	for _, p := range priorities {
		if r.Level >= p.level {
			fields["PRIORITY"] = strconv.Itoa(p.priority)
			break
		}
	}
	conn, err := net.Dial("unixgram", journalSocket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write(datagram(fields))
	return err
}

// valueMax bounds a value, so that the datagram is never too large for a socket.
const valueMax = 4096

// datagram encodes fields. A value with line breaks in it goes with its length before it.
func datagram(fields map[string]string) []byte {
	var b []byte
	for key, value := range fields {
		value = value[:min(len(value), valueMax)]
		if strings.Contains(value, "\n") {
			b = append(b, key+"\n"...)
			b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
		} else {
			b = append(b, key+"="...)
		}
		b = append(append(b, value...), '\n')
	}
	return b
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
