package pod

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Images is a file that says which binary stands for an image, or which directory
// holds its files. It is read again for every container, so that it can be changed while
// the lab runs.
type Images string

type imageConfig struct {
	Bin     string
	Images  map[string]string
	BinDirs []string
}

// Find returns the absolute path of what stands for an image: what is named for it, else
// a binary in the directories that is called like the image.
func (i Images) Find(image string) (string, error) {
	data, err := os.ReadFile(string(i))
	if err != nil {
		return "", err
	}
	var config imageConfig
	if err := json.Unmarshal(data, &config); err != nil {
		return "", fmt.Errorf("read %s: %w", i, err)
	}
	name := nameOf(image)
	if binary, ok := config.Images[name]; ok {
		return binary, nil
	}
	if binary, ok := config.Images[path.Base(name)]; ok {
		return binary, nil
	}
	for _, dir := range append(config.BinDirs, config.Bin) {
		binary := filepath.Join(dir, path.Base(name))
		if info, err := os.Stat(binary); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return binary, nil
		}
	}
	return "", fmt.Errorf("no binary stands for image %q", image)
}

// nameOf cuts tag and digest off an image. A colon before a slash is a port.
func nameOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		image = image[:colon]
	}
	return image
}
