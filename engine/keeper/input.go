package keeper

import "os"

// A container whose standard input is a FIFO reads its end when nobody has it open for writing. Between two writers that is the
// keeper, until it is told that no more will come, or the container has ended.

// HoldInput has the keeper hold the writing end of a container's standard input, in place of what it held before. The file
// stays the caller's.
func (c *Client) HoldInput(id string, w *os.File) error {
	return c.link.send(&message{Kind: kindInput, ID: idBytes(id)}, "", []*os.File{w})
}

// EndInput has it let go of that.
func (c *Client) EndInput(id string) error {
	return c.link.send(&message{Kind: kindInput, ID: idBytes(id)}, "", nil)
}

// holdInput holds a file for a container, or nothing.
func (k *Keeper) holdInput(id [idSize]byte, files []*os.File) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.endInput(id)
	if len(files) > 0 {
		k.inputs[id] = files
	}
}

// endInput lets go of what is held. k.mu is held.
func (k *Keeper) endInput(id [idSize]byte) {
	closeFiles(k.inputs[id])
	delete(k.inputs, id)
}
