// Package seccomp compiles the seccomp object of an OCI runtime specification to the classic BPF program that seccomp(2)
// takes, and knows the profile that a container gets when it names none.
//
// # Model
//
// A profile is a list of rules, each for some system calls by name, with conditions on their arguments and an action. The
// kernel runs one program at every system call of the process. What it may look at is struct seccomp_data: the ABI, the
// number, and six arguments of 64 bits, pointers unfollowed.
//
//	ABI       by its audit number; one that the profile does not name kills the process
//	number    a binary tree over ranges of numbers with one verdict: seven comparisons for the default profile, ten at most
//	verdict   an action, or comparisons of arguments that end in one
//
// The specification does not say how rules combine. They combine here as runc's documentation and most authors of profiles
// have it:
//
//   - The first rule that matches decides; the default action if none does.
//   - Conditions of one rule must all hold, unless two of them are about the same argument: then any one is enough. That
//     reads oddly, but runc, crun and youki agree on it, and profiles were written for it (opencontainers/runc#2735).
//   - Names that an ABI does not know are skipped, so that one profile serves all.
//   - A number beyond every known system call fails with ENOSYS where the default is an errno, as in runc. C libraries try
//     new calls first and fall back on ENOSYS only.
//
// # Failure
//
// A profile that cannot be had as written is refused by name, never weakened: EINVAL for what no runtime takes and for a
// program over the kernel's limit of 4096 instructions, EOPNOTSUPP for what needs a supervisor process beside the
// container, and on machines without a table of system calls.
//
// # Example
//
//	filter, err := seccomp.For(spec.Process.Capabilities.Bounding)
//	// In the child, single-threaded, with no_new_privs set or CAP_SYS_ADMIN, as late as possible:
//	// seccomp(SECCOMP_SET_MODE_FILTER, filter.Flags, &sock_fprog{len(filter.Program), &filter.Program[0]})
//
// The package makes no system call but uname(2). All of it is safe for concurrent use.
package seccomp
