package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Who changes a table does so in several steps, such as a flush and what comes in its place; it is looked at when they have been quiet
// for settle. When a table is changed again and again, repairs take turns that are twice as long each time.
const (
	settle   = 50 * time.Millisecond
	longest  = 10 * time.Second
	longLast = 30 * time.Second // without a repair, and turns are short again
)

// Watch applies anew what was applied last when somebody else has changed or deleted the table, and tells how that went. It returns
// when ctx ends, without an error, or when it cannot watch.
//
// `nft flush ruleset` and a reload of somebody's firewall take every table with them, not only their own. Until the repair, a tenth of a
// second later, nothing is published, and no network is isolated.
func (t *Table) Watch(ctx context.Context, repaired func(error)) error {
	conn, err := dial(t.ns)
	if err != nil {
		return fmt.Errorf("watch table %s: %w", t.table.Name, err)
	}
	defer conn.Close()
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("watch table %s: %w", t.table.Name, err)
	}
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })()
	changed := make(chan struct{}, 1)
	changed <- struct{}{} // what was before
	ended := make(chan error, 1)
	go func() { ended <- t.listen(ctx, conn, changed) }()

	turn, repairedAt := settle, time.Time{}
	for {
		select {
		case err := <-ended:
			return err
		case <-changed:
		}
		if !quiet(ctx, changed, turn) {
			return <-ended
		}
		did, err := t.repair()
		if !did {
			continue
		}
		if time.Since(repairedAt) > longLast {
			turn = settle
		}
		turn, repairedAt = min(2*turn, longest), time.Now()
		if err != nil {
			signal(changed) // again, later
		}
		repaired(err)
	}
}

// quiet waits until nothing has changed for so long, or ten times that in all; false when ctx ends first.
func quiet(ctx context.Context, changed <-chan struct{}, turn time.Duration) bool {
	end := time.After(10 * turn)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end:
			return true
		case <-time.After(turn):
			return true
		case <-changed:
		}
	}
}

// repair applies anew what was applied last, if that is not what the kernel holds.
func (t *Table) repair() (did bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		return false, nil
	}
	if ok, err := t.compare(t.held); ok && err == nil {
		return false, nil
	}
	if err := t.replace(t.held); err != nil {
		return true, fmt.Errorf("table %s: %w", t.table.Name, err)
	}
	return true, nil
}

// listen tells of the changes that somebody else made to our table.
func (t *Table) listen(ctx context.Context, conn *netlink.Conn, changed chan<- struct{}) error {
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			signal(changed) // more than there was room for: it may have been ours
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("watch table %s: %w", t.table.Name, err)
		}
		for _, m := range messages {
			if m.Header.PID != t.wire.port.Load() && t.concerns(m) {
				signal(changed)
			}
		}
	}
}

func signal(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// concerns says whether an event is about our table. Whatever it is about, a table, a chain, a rule, a set or an element, the
// first attribute is the table's name.
func (t *Table) concerns(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN || len(m.Data) < 4 ||
		m.Data[0] != byte(t.table.Family) {
		return false
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return false
	}
	for attributes.Next() {
		if attributes.Type() == unix.NFTA_TABLE_NAME {
			return attributes.String() == t.table.Name
		}
	}
	return false
}
