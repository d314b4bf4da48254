// Package security attacks ctrfs in the ways that have worked on container runtimes, on a real mount. docs/security.md has the
// list, and which test is for which.
//
// A test brings what an attacker would: a root with traps in it, a configuration, a racing thread, a careless administrator.
// It then looks at the host: nothing may have changed or shown there. What only a program can try is in the command hostile,
// which the tests put into a root; it prints one line for each attempt.
//
// A new test is seen to fail with its defence removed, which docs/security.md names. They need root, as those of package
// test do, whose [test.Tree] they stand on.
package security
