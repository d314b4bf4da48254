package fs

import (
	"github.com/hanwen/go-fuse/v2/fs"
)

// What the nodes claim to do, checked by the compiler: go-fuse takes a method with a wrong signature for none, and some
// of its defaults are success.
var (
	_ fs.NodeLookuper  = (*dir)(nil)
	_ fs.NodeReaddirer = (*dir)(nil)
	_ fs.NodeGetattrer = (*dir)(nil)
	_ fs.NodeSetattrer = (*dir)(nil)
	_ fs.NodeMkdirer   = (*dir)(nil)
	_ fs.NodeRmdirer   = (*dir)(nil)
	_ fs.NodeUnlinker  = (*dir)(nil)
	_ fs.NodeRenamer   = (*dir)(nil)
	_ fs.NodeCreater   = (*dir)(nil)
	_ fs.NodeMknoder   = (*dir)(nil)
	_ fs.NodeSymlinker = (*dir)(nil)
	_ fs.NodeLinker    = (*dir)(nil)
	_ fs.NodeStatfser  = (*dir)(nil)
	_ fs.NodeFsyncer   = (*dir)(nil)

	_ fs.NodeLookuper  = (*execs)(nil)
	_ fs.NodeReaddirer = (*execs)(nil)
	_ fs.NodeGetattrer = (*execs)(nil)
	_ fs.NodeSetattrer = (*execs)(nil)
	_ fs.NodeMkdirer   = (*execs)(nil)
	_ fs.NodeRmdirer   = (*execs)(nil)
	_ fs.NodeCreater   = (*execs)(nil)
	_ fs.NodeMknoder   = (*execs)(nil)
	_ fs.NodeSymlinker = (*execs)(nil)
	_ fs.NodeLinker    = (*execs)(nil)
	_ fs.NodeRenamer   = (*execs)(nil)
	_ fs.NodeStatfser  = (*execs)(nil)

	_ fs.NodeLookuper  = (*execDir)(nil)
	_ fs.NodeReaddirer = (*execDir)(nil)
	_ fs.NodeUnlinker  = (*execDir)(nil)
	_ fs.NodeMkdirer   = (*execDir)(nil)
	_ fs.NodeRmdirer   = (*execDir)(nil)
	_ fs.NodeRenamer   = (*execDir)(nil)

	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeSetattrer = (*file)(nil)
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeStatfser  = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)

	_ fs.NodeLookuper  = (*links)(nil)
	_ fs.NodeReaddirer = (*links)(nil)
	_ fs.NodeGetattrer = (*links)(nil)
	_ fs.NodeSetattrer = (*links)(nil)
	_ fs.NodeUnlinker  = (*links)(nil)
	_ fs.NodeMkdirer   = (*links)(nil)
	_ fs.NodeCreater   = (*links)(nil)
	_ fs.NodeMknoder   = (*links)(nil)
	_ fs.NodeSymlinker = (*links)(nil)
	_ fs.NodeLinker    = (*links)(nil)
	_ fs.NodeRenamer   = (*links)(nil)
	_ fs.NodeStatfser  = (*links)(nil)

	_ fs.NodeGetattrer  = (*link)(nil)
	_ fs.NodeSetattrer  = (*link)(nil)
	_ fs.NodeReadlinker = (*link)(nil)
	_ fs.NodeStatfser   = (*link)(nil)

	_ fs.FileReader   = (*handle)(nil)
	_ fs.FileWriter   = (*handle)(nil)
	_ fs.FileReleaser = (*handle)(nil)
)
