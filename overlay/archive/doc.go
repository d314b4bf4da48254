// Package archive turns a layer of an image, a tar, into a directory that overlayfs uses as a lower layer, and back.
package archive
