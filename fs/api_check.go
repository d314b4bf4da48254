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

	_ fs.NodeLookuper  = (*shelf)(nil)
	_ fs.NodeReaddirer = (*shelf)(nil)
	_ fs.NodeGetattrer = (*shelf)(nil)
	_ fs.NodeSetattrer = (*shelf)(nil)
	_ fs.NodeMkdirer   = (*shelf)(nil)
	_ fs.NodeRmdirer   = (*shelf)(nil)
	_ fs.NodeCreater   = (*shelf)(nil)
	_ fs.NodeMknoder   = (*shelf)(nil)
	_ fs.NodeSymlinker = (*shelf)(nil)
	_ fs.NodeLinker    = (*shelf)(nil)
	_ fs.NodeRenamer   = (*shelf)(nil)
	_ fs.NodeStatfser  = (*shelf)(nil)

	_ fs.NodeLookuper  = (*leaf)(nil)
	_ fs.NodeReaddirer = (*leaf)(nil)
	_ fs.NodeUnlinker  = (*leaf)(nil)
	_ fs.NodeMkdirer   = (*leaf)(nil)
	_ fs.NodeRmdirer   = (*leaf)(nil)
	_ fs.NodeRenamer   = (*leaf)(nil)

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
