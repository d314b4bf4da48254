#include "textflag.h"

// func vfork(args *cloneArgs, size uintptr) (result uintptr)
// The return address stays in the link register all along.
TEXT ·vfork(SB), NOSPLIT|NOFRAME, $0-24
	MOVD args+0(FP), R0
	MOVD size+8(FP), R1
	MOVD $435, R8              // clone3
	SVC
	MOVD R0, result+16(FP)
	RET
