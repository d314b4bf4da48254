package engine

import (
	"encoding/json"
	"strconv"
	"time"
)

// Event is something that has happened to a container: one line of the events files.
type Event struct {
	// Seq counts the events of an engine since it was opened. Who reads all of them sees every number once, in order; who
	// reads those of one container sees some of them, in order.
	Seq       uint64
	Time      time.Time
	Container string   // its path below the mount at that moment, "pod/web"
	ID        string   // its identity, which a rename does not change
	Within    []string // the identities of the containers that it lies in, for those who listen there
	Name      string   // what happened, one word: see the constants
	Fields    []Field  // the rest, in the order of the line
}

// The events of a container's life. A reader takes a word that it does not know for one that it does not need.
const (
	EventCreate   = "create"   // its directory was made
	EventRename   = "rename"   // from: its path before
	EventRemove   = "remove"   // the last one of a container: its events file ends
	EventStart    = "start"    // its program was executed; pid
	EventStop     = "stop"     // it was asked to stop; signal, timeout
	EventExit     = "exit"     // its program is gone; exit, signal, oom; restart_at: when it is started again
	EventRestart  = "restart"  // the restart policy has started it, as the next event says; restarts: how many times since the user did; or error: why it, or the mount, could not
	EventHealth   = "health"   // a look at its health had another outcome than before; health: healthy or unhealthy, failures in a row, last: how it ended
	EventListen   = "listen"   // it is armed: its sockets are open, and the first connection launches it; sockets; or error: why it could not be launched
	EventFreeze   = "freeze"   // it is paused
	EventThaw     = "thaw"     // it runs on
	EventOOM      = "oom"      // its memory ran out: action says what was done (kill, freeze, stop), kills how many were killed
	EventPressure = "pressure" // a trigger that was written into a pressure file has fired; file, trigger
	EventGap      = "gap"      // a reader was too slow: lost says how many events it will not see
)

// Field is one more key of an event. The value is a string, a bool, or an integer.
type Field struct {
	Key   string
	Value any
}

// JSON renders an event as one line without its newline. Keys that every event has come first.
func (e *Event) JSON() string {
	b := []byte(`{"time":`)
	b = e.Time.AppendFormat(append(b, '"'), time.RFC3339Nano)
	b = append(b, `","container":`...)
	b = appendJSON(b, e.Container)
	b = append(b, `,"event":`...)
	b = appendJSON(b, e.Name)
	b = append(b, `,"seq":`...)
	b = strconv.AppendUint(b, e.Seq, 10)
	if e.ID != "" {
		b = append(b, `,"id":`...)
		b = appendJSON(b, e.ID)
	}
	for _, f := range e.Fields {
		b = appendJSON(append(b, ','), f.Key)
		b = appendJSON(append(b, ':'), f.Value)
	}
	return string(append(b, '}'))
}

// appendJSON appends a value that JSON can hold, as all that a [Field] may be.
func appendJSON(b []byte, value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		text = []byte("null")
	}
	return append(b, text...)
}
