package resolve

import (
	"syscall"
	"time"
)

func stampOf(path string) stamp {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return stamp{}
	}
	return stamp{
		exists: true, device: uint64(st.Dev), inode: st.Ino, size: st.Size, //nolint:unconvert // narrower on some machines
		mtime: time.Unix(st.Mtim.Unix()), ctime: time.Unix(st.Ctim.Unix()),
	}
}
