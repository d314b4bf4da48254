package keeper

import "os"

// pin holds files for a container in place of what was held before.
func (k *Keeper) pin(m message, files []*os.File) {
	k.mu.Lock()
	defer k.mu.Unlock()
	closeFiles(k.pins[m.ID])
	delete(k.pins, m.ID)
	if len(files) > 0 {
		k.pins[m.ID] = files
	}
}

// lend tells a server what is held for a container. k.mu is held.
func (k *Keeper) lend(s *server, kind kind, id [idSize]byte, files []*os.File) {
	var lent []*os.File
	for _, f := range files {
		d, err := dup(f)
		if err != nil {
			k.log.Error("no descriptor for what is held for a container", "err", err)
			closeFiles(lent)
			return
		}
		lent = append(lent, d)
	}
	s.out.put(message{Kind: kind, ID: id}, lent...)
}
