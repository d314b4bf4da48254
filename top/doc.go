// Package top shows what the containers of a mount use, and how that changes.
//
// # Model
//
// It does nothing but read the stats file at the root of a mount, again and again, as `watch cat stats` would. What it adds
// is the difference of two readings, by the time between them. A reading (reading.go) is parsed by the titles of its columns,
// so a column that it does not know does no harm. A table (table.go) is the text of one screen, made without any terminal; the
// screen (screen.go) puts it there and takes keys.
//
//	stats ─parse─► reading ─┬─► table ─render─► lines ─► terminal, or plain text
//	stats ─parse─► reading ─┘
//
// # Failure
//
// A mount that cannot be read any more ends it, with the terminal as it was before.
package top
