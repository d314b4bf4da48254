package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ctrfs/ctrfs/engine"
)

// rootOwnerFile keeps the owner of the mount's own directory.
const rootOwnerFile = "root.json"

// RootOwner implements [engine.Engine].
func (e *Engine) RootOwner() engine.Owner {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.owner
}

// SetRootOwner implements [engine.Engine].
func (e *Engine) SetRootOwner(o engine.Owner) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.store.write(filepath.Join(e.store.dir, rootOwnerFile), text); err != nil {
		return err
	}
	e.owner = o
	return nil
}

// loadRootOwner reads it; without the file it is root's, as a fresh directory is.
func (e *Engine) loadRootOwner() error {
	e.owner = engine.Owner{Mode: 0o755}
	text, err := os.ReadFile(filepath.Join(e.store.dir, rootOwnerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, &e.owner)
	}
	if err != nil {
		return fmt.Errorf("read the owner of the mount: %w", err)
	}
	return nil
}
