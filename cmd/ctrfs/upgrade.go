package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/local"
)

func upgradeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade [DIR]",
		Short: "Have this program take the place of the one behind the mount, while containers go on",
		Long: `Have this program take the place of the one behind the mount, while containers go on.

Run it from the new binary. Containers, consoles and standard inputs notice nothing. The tree is away for a moment, as when its server has
died: what was open in it has to be opened anew. What cannot be taken over is refused before anything happens.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := defaultDir
			if len(args) > 0 {
				dir = args[0]
			}
			return upgrade(dir)
		},
	}
}

// upgrade hands a sealed copy of this program to the keeper behind a mount. It may be a mount whose server does not come up.
func upgrade(dir string) error {
	m, err := find(dir)
	if err != nil {
		return err
	}
	program, err := program()
	if err != nil {
		return err
	}
	defer program.Close()
	err = keeper.Upgrade(strings.TrimPrefix(m.Source, sourcePrefix), program, local.Stores())
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("nobody is behind %s; ctrfs mount brings back what runs: %w", m.Mountpoint, err)
	case err != nil:
		return fmt.Errorf("upgrade what is behind %s: %w", m.Mountpoint, err)
	}
	return nil
}
