package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/portway-dev/portway/integration/lab/internal/image"
	"github.com/portway-dev/portway/integration/lab/internal/machine"
)

// EchoImage is the server of the tests on the full level; see tools/echo.
const EchoImage = "portway-lab/echo:v1"

// Pack writes an archive, for Load, of an image that consists of programs, at its root
// under their own names. The first is what it runs.
func Pack(archive, name string, programs ...string) error {
	if len(programs) == 0 {
		return errors.New("an image without a program")
	}
	packed := image.Image{Name: name, Files: map[string]string{}}
	for _, program := range programs {
		packed.Files["/"+filepath.Base(program)] = program
	}
	packed.Entrypoint = []string{"/" + filepath.Base(programs[0])}
	file, err := os.Create(archive)
	if err != nil {
		return err
	}
	return errors.Join(packed.Write(file), file.Close())
}

// prepareImages puts the archives that every node loads into the directory of a lab.
func prepareImages(dir, bin string, archives []string) error {
	images := filepath.Join(dir, machine.ImagesDir)
	if err := os.MkdirAll(images, 0o755); err != nil {
		return err
	}
	for name, program := range map[string]string{machine.PauseImage: "pause", EchoImage: "echo"} {
		if err := Pack(filepath.Join(images, "000-"+program+".tar"), name, filepath.Join(bin, program)); err != nil {
			return err
		}
	}
	for _, archive := range archives {
		if _, err := keepImage(dir, archive); err != nil {
			return err
		}
	}
	return nil
}

// keepImage copies an archive, for the nodes that boot later, and returns the copy.
func keepImage(dir, archive string) (string, error) {
	from, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer func() { _ = from.Close() }()
	images := filepath.Join(dir, machine.ImagesDir)
	for number := 1; ; number++ {
		name := filepath.Join(images, fmt.Sprintf("%03d.tar", number))
		to, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		_, err = io.Copy(to, from)
		return name, errors.Join(err, to.Close())
	}
}

// Load loads an image from an archive, as `docker save` writes it or as an OCI layout, into
// every node of the full level, now and when one boots. A name without a registry means
// what it means to a kubelet.
func (l *Lab) Load(archive string) error {
	if !l.full {
		return errors.New("only the full level has images: on the small one a binary stands for each")
	}
	kept, err := keepImage(l.dir, archive)
	if err != nil {
		return err
	}
	return l.call("Load", kept, &machine.None{})
}
