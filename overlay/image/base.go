package image

import "path/filepath"

// LayersDir is the directory below which all layers are.
func (s *Store) LayersDir() string { return filepath.Join(s.dir, layersDir) }
