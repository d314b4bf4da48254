package engine

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// IOLimit is what one device may do in a second: a line of io.max. [math.MaxUint64] is no limit.
type IOLimit struct {
	Major, Minor int64
	Rates        [4]uint64 // in the order of IOKeys
}

// IOKeys are the keys of io.max: bytes and operations a second, each for reading and writing.
var IOKeys = [4]string{"rbps", "wbps", "riops", "wiops"}

// NoRate is the rate that is no limit.
const NoRate uint64 = math.MaxUint64

var noRates = [4]uint64{NoRate, NoRate, NoRate, NoRate}

// Device returns MAJOR:MINOR.
func (l IOLimit) Device() string { return fmt.Sprintf("%d:%d", l.Major, l.Minor) }

// String returns the line as the kernel prints it: block/blk-throttle.c, tg_prfill_limit.
func (l IOLimit) String() string {
	text := l.Device()
	for i, key := range IOKeys {
		rate := "max"
		if l.Rates[i] != NoRate {
			rate = strconv.FormatUint(l.Rates[i], 10)
		}
		text += " " + key + "=" + rate
	}
	return text
}

// throttles are the lists of the specification in the order of IOKeys.
func throttles(b *specs.LinuxBlockIO) [4]*[]specs.LinuxThrottleDevice {
	return [4]*[]specs.LinuxThrottleDevice{&b.ThrottleReadBpsDevice, &b.ThrottleWriteBpsDevice, &b.ThrottleReadIOPSDevice, &b.ThrottleWriteIOPSDevice}
}

// IOMax returns the limits on devices, by number.
func (c *Config) IOMax() (all []IOLimit) {
	b := c.Spec.Linux.Resources.BlockIO
	if b == nil {
		return nil
	}
	for i, list := range throttles(b) {
		for _, d := range *list {
			at := slices.IndexFunc(all, func(l IOLimit) bool { return l.Major == d.Major && l.Minor == d.Minor })
			if at < 0 {
				at = len(all)
				all = append(all, IOLimit{d.Major, d.Minor, noRates})
			}
			all[at].Rates[i] = d.Rate
		}
	}
	slices.SortFunc(all, func(a, b IOLimit) int {
		return cmp.Or(cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor))
	})
	return all
}

// SetIOMax sets limits on one device, "MAJ:MIN" and KEY=RATE...; keys that are not named stay. A device alone loses its limits.
func (c *Config) SetIOMax(device, value string) error {
	const cure = "write MAJ:MIN rbps=N wbps=N riops=N wiops=N, each a number or max"
	major, minor, err := blockDevice("io.max", device)
	if err != nil {
		return err
	}
	limit := IOLimit{major, minor, noRates}
	all := c.IOMax()
	at := slices.IndexFunc(all, func(l IOLimit) bool { return l.Major == major && l.Minor == minor })
	if at >= 0 {
		if value != "" {
			limit = all[at]
		}
		all = slices.Delete(all, at, at+1)
	}
	for word := range strings.FieldsSeq(value) {
		key, text, _ := strings.Cut(word, "=")
		i := slices.Index(IOKeys[:], key)
		if i < 0 {
			return Invalid("io.max", device+" "+value, Quote(key)+" is no key", cure)
		}
		rate, err := strconv.ParseUint(text, 10, 64)
		if text == "max" {
			rate, err = NoRate, nil
		}
		if err != nil || rate == 0 { // block/blk-throttle.c, tg_set_limit, takes no 0 either
			return Invalid("io.max", device+" "+value, Quote(text)+" is no rate", cure)
		}
		if i >= 2 && rate >= math.MaxUint32 { // operations are counted in 32 bits
			rate = NoRate
		}
		limit.Rates[i] = rate
	}
	if limit.Rates != noRates {
		all = append(all, limit)
	}
	c.setIOMax(all)
	return nil
}

// setIOMax replaces all limits on devices.
func (c *Config) setIOMax(all []IOLimit) {
	b := clonePtr(c.Spec.Linux.Resources.BlockIO)
	slices.SortFunc(all, func(a, b IOLimit) int { return cmp.Or(cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor)) })
	for i, list := range throttles(b) {
		*list = nil
		for _, l := range all {
			if l.Rates[i] == NoRate {
				continue
			}
			d := specs.LinuxThrottleDevice{Rate: l.Rates[i]}
			d.Major, d.Minor = l.Major, l.Minor
			*list = append(*list, d)
		}
	}
	c.setBlockIO(b)
}

// setBlockIO takes what says something.
func (c *Config) setBlockIO(b *specs.LinuxBlockIO) {
	empty := b.Weight == nil && b.LeafWeight == nil && len(b.WeightDevice) == 0
	for _, list := range throttles(b) {
		empty = empty && len(*list) == 0
	}
	if empty {
		b = nil
	}
	c.Spec.Linux.Resources.BlockIO = b
}

// blockDevice reads MAJ:MIN, in the range of the kernel's dev_t: include/linux/kdev_t.h.
func blockDevice(file, text string) (major, minor int64, err error) {
	a, b, ok := strings.Cut(text, ":")
	maj, errMajor := strconv.ParseUint(a, 10, 12)
	minr, errMinor := strconv.ParseUint(b, 10, 20)
	if !ok || errMajor != nil || errMinor != nil {
		return 0, 0, Invalid(file, text, "not a device's number", "write MAJ:MIN, such as 8:0; ls -l and lsblk(8) tell it")
	}
	return int64(maj), int64(minr), nil
}

// Bounds of the specification's blockIO.weight; outside of them an io.weight is kept by its name.
const (
	minBlockWeight = 10
	maxBlockWeight = 1000
)

// IOWeight returns the relative share of devices, 1 to 10000.
func (c *Config) IOWeight() int64 {
	if b := c.Spec.Linux.Resources.BlockIO; b != nil && b.Weight != nil {
		return int64(*b.Weight)
	}
	return c.unifiedSize("io.weight", defaultWeight)
}

// SetIOWeight sets it.
func (c *Config) SetIOWeight(weight int64) error {
	if weight < minWeight || weight > maxWeight {
		return Invalid("io.weight", fmt.Sprint(weight), "out of range", "write 1 to 10000")
	}
	b := clonePtr(c.Spec.Linux.Resources.BlockIO)
	b.Weight = nil
	c.setUnified("io.weight", "")
	switch {
	case weight == defaultWeight:
	case weight >= minBlockWeight && weight <= maxBlockWeight:
		b.Weight = new(uint16(weight))
	default:
		c.setUnified("io.weight", fmt.Sprint(weight))
	}
	c.setBlockIO(b)
	return nil
}
