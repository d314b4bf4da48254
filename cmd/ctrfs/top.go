package main

import (
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/top"
)

// topInterval is the time between two readings of top, unless told otherwise, and topFastest what may be asked for: each
// reading costs the machine as much as reading a dozen files for each container.
const (
	topInterval = time.Second
	topFastest  = 50 * time.Millisecond
)

func topCommand() *cobra.Command {
	var once bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "top [DIR]",
		Short: "Show what the containers of a mount use, by default of " + defaultDir,
		Long: "Show what the containers of a mount use, by default of " + defaultDir + `.

It reads DIR/stats again and again. Keys: left and right, or < and >, choose the column to sort by, as do n (name), s (state),
c (cpu), m (memory) and p (pids); r reverses; up, down, page up, page down, home and end scroll; q quits.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := defaultDir
			if len(args) > 0 {
				dir = args[0]
			}
			// The terminal is put back also when somebody ends this program.
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
			defer stop()
			interval = max(interval, topFastest)
			if once {
				return top.Once(ctx, cmd.OutOrStdout(), dir, interval)
			}
			return top.Run(ctx, dir, interval)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "print one table as plain text, without a terminal")
	cmd.Flags().DurationVar(&interval, "interval", topInterval, "time between two readings")
	return cmd
}
