package main

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ctrfs/ctrfs/engine/local"
)

func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host offers to containers, and what it lacks",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return doctor() },
	}
}

// doctor prints what the host file of a mount would.
func doctor() error {
	dir, err := os.MkdirTemp("", "ctrfs-doctor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	features, err := local.Probe(dir)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, f := range features {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, f.Value, f.Reason)
	}
	return w.Flush()
}
