// Package crash lets a test kill the server after any single step that it takes towards something that lasts.
//
// Whatever outlives the server (a file of the state or run directory, a group, a range of ids, what the keeper is told) is changed
// in steps, and the server may be killed between any two of them. Each step passes [Point] when it is done. In a program that
// is built for users the function is empty and costs nothing. Built with the tag crashpoints, it looks into the directory
// crashpoints of the run directory, which a test makes:
//
//	passed   gets a line for each point that is passed, while it is there
//	at       "N NAME": the server ends at once, as if killed, when NAME is passed for the Nth time since passed was emptied
//	hit      what at is renamed to just before that
//
// So a test that does an operation once knows all its points, and can do it again for each of them. A step without a point is
// found by the test of this package, which reads the source.
package crash
