package resolve

import (
	"net"
	"strconv"
)

// zoneName is the name of the interface with an index, or the index in decimal
// when there is none: netip.Addr and package net take both.
func zoneName(index uint32) string {
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		return i.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}
