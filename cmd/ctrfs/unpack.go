package main

import (
	"github.com/spf13/cobra"

	"github.com/ctrfs/ctrfs/overlay/archive"
)

// unpackCommand is what the server has the keeper launch for each layer of an image: see engine/local/unpack.go.
func unpackCommand() *cobra.Command {
	return &cobra.Command{
		Use:    archive.Verb,
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return archive.Main(args) },
	}
}
