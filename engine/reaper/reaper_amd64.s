#include "textflag.h"

// func address() *byte
TEXT ·address(SB), NOSPLIT, $0-8
	LEAQ ·code(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func code()
// Where a process begins, the stack holds argc, argv[0], argv[1]. A system call takes its number in AX and arguments in
// DI, SI, DX, R10; it changes AX, CX and R11.
//
//	BX        the pid of the program
//	0(SP)     a name for the process, 16 bytes
//	16(SP)    the set of all signals
//	24(SP)    a wait status
TEXT ·code(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ 16(SP), SI
	XORL BX, BX

digit:
	MOVBLZX (SI), AX
	TESTL AX, AX
	JEQ named
	LEAL (BX)(BX*4), BX
	LEAL -48(AX)(BX*2), BX     // ten times as much, and the digit
	INCQ SI
	JMP digit

named:
	LEAQ -64(SP), SP
	MOVQ $-1, AX
	MOVQ AX, 16(SP)
	MOVL $157, AX              // prctl(PR_SET_DUMPABLE, 0)
	MOVL $4, DI
	XORL SI, SI
	SYSCALL
	MOVQ $0x6e692d7366727463, AX // "ctrfs-in"
	MOVQ AX, 0(SP)
	MOVL $0x7469, AX           // "it"
	MOVQ AX, 8(SP)
	MOVL $157, AX              // prctl(PR_SET_NAME, name)
	MOVL $15, DI
	MOVQ SP, SI
	SYSCALL

reap:
	MOVL $61, AX               // wait4(-1, &status, WNOHANG, NULL)
	MOVQ $-1, DI
	LEAQ 24(SP), SI
	MOVL $1, DX
	XORL R10, R10
	SYSCALL
	MOVL $255, DI
	TESTL AX, AX
	JLT none
	JEQ sleep
	CMPL AX, BX
	JNE reap
	JMP ended

none:
	TESTL BX, BX
	JNE exit                   // no child at all: there is no program to wait for
	JMP sleep

ended:
	MOVL 24(SP), DI            // the program has ended: WIFSIGNALED, or WEXITSTATUS
	MOVL DI, BX
	ANDL $0x7f, BX
	JNE signalled
	SHRL $8, DI
	ANDL $0xff, DI
	JMP exit

signalled:
	MOVQ $0x7962206465646e65, AX // "ended by"
	MOVQ AX, 0(SP)
	LEAL 32(BX), AX
	MOVQ AX, 8(SP)
	MOVL $157, AX              // prctl(PR_SET_NAME, name)
	MOVL $15, DI
	MOVQ SP, SI
	SYSCALL
	LEAL 128(BX), DI

exit:
	MOVL $231, AX              // exit_group(status)
	SYSCALL
	JMP exit

sleep:
	MOVL $128, AX              // rt_sigtimedwait(&all, NULL, NULL, 8)
	LEAQ 16(SP), DI
	XORL SI, SI
	XORL DX, DX
	MOVL $8, R10
	SYSCALL
	CMPL AX, $17               // SIGCHLD
	JEQ reap
	TESTL AX, AX
	JLE sleep                  // it was stopped, and goes on
	MOVL BX, DI
	TESTL BX, BX
	JEQ exit                   // nobody to pass it on to: it is for the reaper
	MOVL AX, SI
	MOVL $62, AX               // kill(program, signal)
	SYSCALL
	JMP reap

	BYTE $0; BYTE $'c'; BYTE $'t'; BYTE $'r'; BYTE $'f'; BYTE $'s'; BYTE $0; BYTE $0
