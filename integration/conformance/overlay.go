package conformance

import (
	"embed"
	"errors"
	"io/fs"

	"sigs.k8s.io/gateway-api/conformance"
)

//go:embed manifests
var embedded embed.FS

// Overlay is the suite's file system with our files in place of its own. The suite
// would join files of the same name from several file systems, so this is one.
type Overlay struct{ ours, suite fs.FS }

var _ fs.FS = Overlay{}

// Manifests are the suite's and ours.
func Manifests() (Overlay, error) {
	ours, err := fs.Sub(embedded, "manifests")
	return Overlay{ours: ours, suite: conformance.Manifests}, err
}

// Open opens our file of a name, else the suite's.
func (o Overlay) Open(name string) (fs.File, error) {
	file, err := o.ours.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return o.suite.Open(name)
	}
	return file, err
}
