#include "textflag.h"

// func address() *byte
TEXT ·address(SB), NOSPLIT, $0-8
	MOVD $·code(SB), R0
	MOVD R0, ret+0(FP)
	RET

// func code()
// Where a process begins, the stack holds argc, argv[0], argv[1]. A system call takes its number in R8 and arguments in
// R0 to R3; it changes R0.
//
//	R19        the pid of the program
//	0(RSP)     a name for the process, 16 bytes
//	16(RSP)    the set of all signals
//	24(RSP)    a wait status
TEXT ·code(SB), NOSPLIT|NOFRAME, $0-0
	MOVD 16(RSP), R1
	MOVD $0, R19
	MOVD $10, R2

digit:
	MOVBU (R1), R0
	CBZ R0, named
	SUB $48, R0, R0
	MADD R2, R0, R19, R19      // ten times as much, and the digit
	ADD $1, R1, R1
	B digit

named:
	SUB $64, RSP, RSP
	MOVD $-1, R0
	MOVD R0, 16(RSP)
	MOVD $4, R0                // prctl(PR_SET_DUMPABLE, 0)
	MOVD $0, R1
	MOVD $167, R8
	SVC
	MOVZ $0x7463, R0           // "ctrfs-in"
	MOVK $(0x6672<<16), R0
	MOVK $(0x2d73<<32), R0
	MOVK $(0x6e69<<48), R0
	MOVD R0, 0(RSP)
	MOVZ $0x7469, R0           // "it"
	MOVD R0, 8(RSP)
	MOVD $15, R0               // prctl(PR_SET_NAME, name)
	MOVD RSP, R1
	MOVD $167, R8
	SVC

reap:
	MOVD $-1, R0               // wait4(-1, &status, WNOHANG, NULL)
	ADD $24, RSP, R1
	MOVD $1, R2
	MOVD $0, R3
	MOVD $260, R8
	SVC
	MOVD R0, R4
	MOVD $255, R0
	CMP $0, R4
	BLT none
	BEQ sleep
	CMP R4, R19
	BNE reap
	B ended

none:
	CBNZ R19, exit             // no child at all: there is no program to wait for
	B sleep

ended:
	MOVWU 24(RSP), R0          // the program has ended: WIFSIGNALED, or WEXITSTATUS
	AND $0x7f, R0, R19
	CBNZ R19, signalled
	LSR $8, R0, R0
	AND $0xff, R0, R0
	B exit

signalled:
	MOVZ $0x6e65, R0           // "ended by"
	MOVK $(0x6564<<16), R0
	MOVK $(0x2064<<32), R0
	MOVK $(0x7962<<48), R0
	MOVD R0, 0(RSP)
	ADD $32, R19, R0
	MOVD R0, 8(RSP)
	MOVD $15, R0               // prctl(PR_SET_NAME, name)
	MOVD RSP, R1
	MOVD $167, R8
	SVC
	ADD $128, R19, R0

exit:
	MOVD R0, R20
	MOVD $94, R8               // exit_group(status)
	SVC
	MOVD R20, R0
	B exit

sleep:
	ADD $16, RSP, R0           // rt_sigtimedwait(&all, NULL, NULL, 8)
	MOVD $0, R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $137, R8
	SVC
	CMP $17, R0                // SIGCHLD
	BEQ reap
	CMP $0, R0
	BLE sleep                  // it was stopped, and goes on
	MOVD R0, R1
	MOVD R19, R0
	CBZ R19, exit              // nobody to pass it on to: it is for the reaper
	MOVD $129, R8              // kill(program, signal)
	SVC
	B reap

	WORD $0x72746300           // the end: \0ctr
	WORD $0x00007366           // fs\0\0
