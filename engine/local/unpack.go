package local

import "github.com/ctrfs/ctrfs/overlay/archive"

func (e *Engine) unpacker() archive.Spawn { return nil }
