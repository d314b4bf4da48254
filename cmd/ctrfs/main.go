// Command ctrfs is a container engine whose whole interface is a file system.
//
//	ctrfs mount [DIR]     mount the tree (default /ctr) and return when it answers
//	ctrfs umount [DIR]    unmount it; --stop stops what runs, --keep leaves it running
//	ctrfs upgrade [DIR]   have this program take the place of the one behind the mount, under what runs
//	ctrfs run CMD         run a program in a container that is made for it, and removed afterwards
//	ctrfs exec NAME CMD   run one more program in a container
//	ctrfs doctor          say what this host offers to containers, and what it lacks
//	ctrfs version         say which version this is
//
// Everything else is done with files: `cat DIR/help` lists them.
//
// One binary is three processes. `ctrfs mount` starts a keeper, the parent of every container, which starts a server, the
// tree; both are hidden verbs of this program. The package is the only place where engine, tree and keeper meet.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set by the linker.
var (
	version = ""
	commit  = ""
)

// The places that ctrfs uses unless told otherwise.
const (
	defaultDir   = "/ctr"
	defaultState = "/var/lib/ctrfs"
	defaultRun   = "/run/ctrfs"
)

func main() {
	root := &cobra.Command{
		Use:           "ctrfs",
		Short:         "A container engine whose whole interface is a file system",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(mountCommand(), umountCommand(), upgradeCommand(), doctorCommand(), topCommand(), runCommand(), execCommand(), attachCommand(), versionCommand(), keeperCommand(), serverCommand(), unpackCommand())
	err := root.Execute()
	if status, ok := errors.AsType[exitStatus](err); ok {
		os.Exit(int(status))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ctrfs:", err)
		os.Exit(1)
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, commit and Go version",
		Args:  cobra.NoArgs,
		Run:   func(*cobra.Command, []string) { fmt.Print(versionText()) },
	}
}

// versionText is also the content of the version file. A build without the linker's help asks the Go tool's own stamp.
func versionText() string {
	v, c := version, commit
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && c == "" {
				c = s.Value
			}
		}
	}
	if c == "" {
		c = "unknown"
	}
	return fmt.Sprintf("ctrfs %s\ncommit %s\ngo %s %s\n", v, c, runtime.Version(), runtime.GOARCH)
}
