#include "textflag.h"

// func vfork(args *cloneArgs, size uintptr) (result uintptr)
TEXT ·vfork(SB), NOSPLIT|NOFRAME, $0-24
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVL $435, AX              // clone3
	POPQ R12                   // the return address: the child's calls will overwrite it
	SYSCALL
	PUSHQ R12
	MOVQ AX, result+16(FP)
	RET
