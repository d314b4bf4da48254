package engine

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The real-time signals that programs count from (signal(7): the C library keeps the kernel's first two for itself).
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal reads a signal as kill(1) takes it: a number, or a name with or without SIG, in either case; RTMIN+3 and
// RTMAX-1 too. file names the setting, for the error.
func ParseSignal(file, text string) (syscall.Signal, error) {
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	base, rest := 0, name
	if r, ok := strings.CutPrefix(name, "RTMIN"); ok {
		base, rest = sigRTMin, r
	} else if r, ok := strings.CutPrefix(name, "RTMAX"); ok {
		base, rest = sigRTMax, r
	}
	n, err := 0, error(nil)
	if rest != "" || base == 0 {
		n, err = strconv.Atoi(rest)
	}
	if err == nil && base+n >= 1 && base+n <= sigRTMax && (base == 0 || base+n >= sigRTMin) {
		return syscall.Signal(base + n), nil
	}
	return 0, Invalid(file, text, "not a signal", "write a name such as TERM, HUP or RTMIN+3, or a number from 1 to 64")
}

// SignalName returns the name of a signal without SIG, "RTMIN+3" for a real-time one, else its number.
func SignalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	switch {
	case sig == sigRTMin:
		return "RTMIN"
	case sig > sigRTMin && sig <= sigRTMax:
		return fmt.Sprintf("RTMIN+%d", int(sig)-sigRTMin)
	}
	return strconv.Itoa(int(sig))
}
