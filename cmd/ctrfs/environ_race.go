//go:build race

package main

import "os"

// environ is the environment of keeper and server: in a build with the race detector, what that was told. Its default is to
// wait for a second at each exit, for reports of other threads.
func environ() []string { return []string{"GORACE=" + os.Getenv("GORACE")} }
