package image

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What is read into memory of an image, at most.
const (
	manifestMax = 4 << 20
	configMax   = 8 << 20
	layersMax   = 127       // docker's own bound; overlayfs takes up to 500
	nestedMax   = 4         // indexes in indexes
	layerMax    = 1 << 50   // bytes, so that sums of sizes do not overflow
	blockMax    = 100 << 10 // files in an archive that is an image's
)

// parseConfig reads an image's configuration and checks what the rest relies upon.
func parseConfig(raw []byte) (*ocispec.Image, error) {
	config := new(ocispec.Image)
	if err := json.Unmarshal(raw, config); err != nil {
		return nil, bad(err, "its configuration cannot be read")
	}
	if config.RootFS.Type != "" && config.RootFS.Type != "layers" {
		return nil, refused(syscall.EINVAL, fmt.Sprintf("it is not made of layers but of %q", config.RootFS.Type), "")
	}
	if len(config.RootFS.DiffIDs) == 0 {
		return nil, refused(syscall.EINVAL, "it has no layers", "pull a container image")
	}
	if len(config.RootFS.DiffIDs) > layersMax {
		return nil, refused(syscall.EINVAL, fmt.Sprintf("it has %d layers, and %d is the most", len(config.RootFS.DiffIDs), layersMax), "squash it")
	}
	for _, d := range config.RootFS.DiffIDs {
		if !isDigest(string(d)) {
			return nil, refused(syscall.EINVAL, fmt.Sprintf("%.100q is not the SHA-256 of a layer", string(d)), "")
		}
	}
	return config, nil
}

// platform is what this host runs.
var platform = ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}

// forThisHost checks that an image's programs run here.
func forThisHost(config *ocispec.Image) error {
	if config.OS != "" && config.OS != platform.OS || config.Architecture != "" && config.Architecture != platform.Architecture {
		return wrongPlatform([]string{platformText(&config.Platform)})
	}
	return nil
}

func wrongPlatform(there []string) error {
	slices.Sort(there)
	there = slices.Compact(there)
	if len(there) > 20 {
		there = append(there[:20], "…")
	}
	return refused(syscall.EOPNOTSUPP, fmt.Sprintf("it is not for %s but for %s", platformText(&platform), strings.Join(there, ", ")),
		"name an image for this machine")
}

func platformText(p *ocispec.Platform) string {
	text := fmt.Sprintf("%.20s/%.20s", p.OS, p.Architecture)
	if p.Variant != "" {
		text += fmt.Sprintf("/%.20s", p.Variant)
	}
	return text
}

// document is a manifest or an index, of OCI or of docker. Which one it is its content tells.
type document struct {
	Schema    int                  `json:"schemaVersion"`
	MediaType string               `json:"mediaType"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

func parseDocument(raw []byte) (*document, error) {
	d := new(document)
	if err := json.Unmarshal(raw, d); err != nil {
		return nil, bad(err, "its manifest cannot be read")
	}
	switch {
	case d.Schema == 1:
		return nil, refused(syscall.EOPNOTSUPP, "its manifest is of docker's schema 1, which nothing has made since 2017", "push the image anew with a current tool")
	case d.Schema != 2:
		return nil, refused(syscall.EINVAL, fmt.Sprintf("its manifest is of schema %d", d.Schema), "")
	case d.Manifests != nil && (d.Config != nil || d.Layers != nil):
		// Two programs could see two images in it, CVE-2021-41190.
		return nil, refused(syscall.EBADMSG, "its manifest is one of an image and an index at once", "")
	}
	for _, list := range [][]ocispec.Descriptor{d.Layers, d.Manifests} {
		for i := range list {
			if err := checkDescriptor(&list[i]); err != nil {
				return nil, err
			}
		}
	}
	if d.Config != nil {
		return d, checkDescriptor(d.Config)
	}
	return d, nil
}

func checkDescriptor(d *ocispec.Descriptor) error {
	if !isDigest(string(d.Digest)) {
		return refused(syscall.EOPNOTSUPP, fmt.Sprintf("%.100q is not a SHA-256", string(d.Digest)), "")
	}
	if d.Size < 0 || d.Size > layerMax {
		return refused(syscall.EBADMSG, fmt.Sprintf("the size of %s is %d", d.Digest, d.Size), "")
	}
	return nil
}

// choose returns the manifest of an index that is for this host. Of several, the one that asks for the least of the
// processor: which variant it is, a program could only guess.
func (d *document) choose() (*ocispec.Descriptor, error) {
	var best *ocispec.Descriptor
	var there []string
	for i := range d.Manifests {
		m := &d.Manifests[i]
		p := m.Platform
		if p == nil {
			if len(d.Manifests) == 1 {
				return m, nil
			}
			continue
		}
		if p.OS != "unknown" { // an attestation
			there = append(there, platformText(p))
		}
		if p.OS == platform.OS && p.Architecture == platform.Architecture && (best == nil || variant(m) < variant(best)) {
			best = m
		}
	}
	if best == nil && there == nil {
		return nil, refused(syscall.EINVAL, errNoImage.Error(), "name a container image")
	}
	if best == nil {
		return nil, wrongPlatform(there)
	}
	return best, nil
}

// variant orders the variants of an architecture: none, v1, v2, …, which is also v8 of arm64.
func variant(d *ocispec.Descriptor) string { return d.Platform.Variant }

// checkImage looks at a manifest: it must be one of a container image, whose layers can be had.
func (d *document) checkImage() error {
	if d.Config == nil {
		return refused(syscall.EINVAL, errNoImage.Error(), "name a container image")
	}
	switch d.Config.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
	default:
		return refused(syscall.EINVAL, fmt.Sprintf("it is not a container image but %.100q", d.Config.MediaType), "name a container image")
	}
	if d.Config.Size > configMax {
		return refused(syscall.E2BIG, fmt.Sprintf("its configuration has %d bytes", d.Config.Size), "")
	}
	for i := range d.Layers {
		if err := checkLayerType(d.Layers[i].MediaType); err != nil {
			return err
		}
	}
	return nil
}

func checkLayerType(text string) error {
	if strings.Contains(text, "foreign") || strings.Contains(text, "nondistributable") {
		return refused(syscall.EOPNOTSUPP, "a layer of it is elsewhere, for whoever has a licence", "name an image that is all there")
	}
	kind, rest, _ := strings.Cut(text, ".tar")
	known := kind == "application/vnd.oci.image.layer.v1" || kind == "application/vnd.docker.image.rootfs.diff"
	// How a layer is compressed it says itself, and some tools write the wrong name of it here.
	if !known || rest != "" && !slices.Contains([]string{"+gzip", ".gzip", "+zstd", ".zstd"}, rest) {
		return refused(syscall.EOPNOTSUPP, fmt.Sprintf("a layer of it is %.100q", text), "name an image whose layers are tar archives")
	}
	return nil
}
