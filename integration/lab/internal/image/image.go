// Package image writes container images: one layer of a few files, in the archive
// format that `docker save` writes and ctr, podman and skopeo read. There is neither a
// registry nor a daemon.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Image is a scratch image.
type Image struct {
	Name string // with its tag
	// Files are the executables in it: path in the image to file here.
	Files map[string]string
	// Entrypoint may be empty: then pods say what to run.
	Entrypoint []string
}

// epoch makes archives of the same content the same.
var epoch = time.Unix(0, 0)

// Write writes the archive.
func (i Image) Write(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": epoch.UTC(),
		"config": map[string]any{
			"Entrypoint": i.Entrypoint, "WorkingDir": "/",
			"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return err
	}
	configName, layerName := digest(config)+".json", digest(layer)+".tar"
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": configName, "RepoTags": []string{i.Name}, "Layers": []string{layerName},
	}})
	if err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	for _, file := range []struct {
		name    string
		content []byte
	}{{layerName, layer}, {configName, config}, {"manifest.json", manifest}} {
		if err := add(archive, &tar.Header{Name: file.name, Mode: 0o644}, file.content); err != nil {
			return err
		}
	}
	return archive.Close()
}

// layer is the files and the directories above them.
func (i Image) layer() ([]byte, error) {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	made := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(i.Files)) {
		inside := strings.TrimPrefix(path.Clean("/"+name), "/")
		for at, c := range inside {
			if dir := inside[:at]; c == '/' && !made[dir] {
				made[dir] = true
				if err := add(archive, &tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil); err != nil {
					return nil, err
				}
			}
		}
		content, err := os.ReadFile(i.Files[name])
		if err != nil {
			return nil, err
		}
		if err := add(archive, &tar.Header{Name: inside, Mode: 0o755}, content); err != nil {
			return nil, err
		}
	}
	err := archive.Close()
	return layer.Bytes(), err
}

func add(archive *tar.Writer, header *tar.Header, content []byte) error {
	header.ModTime, header.Size = epoch, int64(len(content))
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
