// Package test tries ctrfs from outside: the program as it is built, mounted for real, used by real shells, on the real
// kernel. Nothing in it imports another package of this tree, so it stays true when they change.
//
// # Transcripts
//
// What a user can see is written down in testdata/*.txt as a session at a shell: what is typed, and what must appear.
//
//	# A comment, which also ends the output before it.
//	$ mkdir web
//	$ echo 'sh -c "echo hi; exit 7"' > web/cmd
//	$ echo 1 > web/start
//	$ cat web/wait web/log
//	7
//	hi
//	$ for c in *
//	> do echo $c; done
//	web
//	$ cat web/nosuch
//	~ cat: .*: No such file or directory
//	exit: 1
//
// A line "$ ..." is typed into one persistent shell whose working directory is the mount, and "> ..." continues it. The
// lines after it are all that the command prints, both streams together. Among them
//
//	~ REGEXP       stands for one line that matches as a whole
//	...            stands for any number of lines, also none
//	\ no newline   says that the line before it ends without one
//	exit: N        is the status that the command must end with; without it, 0
//
// Empty lines before the next command, a comment or the end count for nothing; "~" alone is an empty line that counts.
// Before the first command a file may say
//
//	shell: bash            or "busybox sh"; dash otherwise
//	needs: rsync tree      programs without which the transcript cannot run
//	timeout: 30s           for each command; 10s otherwise
//	world: yes             ctrfs is mounted in a network namespace of its own, HOST, which stands for this machine ([World])
//
// Every file has a mount of its own, and these variables: MNT the mount, CTRFS the program, STATE and RUN its
// directories, TMP an empty scratch directory, ROOT a directory with nothing but a static busybox and its names. When it ends, the mount is
// taken down with its containers, and nothing may be left: no mount, process, cgroup, link, loop device or nft table.
//
// # Go tests
//
// What a shell cannot say is in Go, on the same ground: [MountFor] gives a [Tree], Sh runs shell text on it. They need
// root; without it they fail where CI is set in the environment, and are skipped, with the reason, where it is not.
//
// Networks are made in a [World]: two network namespaces, one that is this machine to the ctrfs that is mounted in it, and one that is
// the world. Packets are sent and answered by test/peer, in containers and beside them.
//
// TestCrashPoints (crash_test.go) kills the server after each single step of an operation that outlives it, which package
// engine/crash makes possible in a program built with the tag crashpoints; -every is for steps, too, that are taken many times.
//
// TestChaos (chaos_*.go) does everything at once for twenty seconds while the server is killed again and again, TestCycles has some
// hundred containers come and go, and TestWaiters two thousand readers wait. `make chaos` has them take longer.
//
// The program under test is built from this tree, unless CTRFS_BINARY names one: that is how the same tests run once more
// with the race detector inside ctrfs. test/setup makes what they need beyond the tree; a machine that lacks a part of it
// gets the same treatment as one without root.
//
// # The other machine
//
// `make test-v2` runs the same tests once more on a machine in qemu whose cgroups are v2 alone and whose kernel is older: see
// test/machine/run. What a transcript shows, it shows there and here, with the same text. The machine is slow and has no Go, so
// CTRFS_PATIENCE says how many times as long every limit is that only a hang should run into ([Patiently]), and
// CTRFS_PROGRAMS where the programs lie that tests build elsewhere ([Program]).
package test
