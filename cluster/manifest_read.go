package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// maxFileSize is the most a manifest may hold: many times what a node can serve,
// and far less than what makes a machine swap.
const maxFileSize = 256 << 20

// readManifest reads a file that was a regular one when it was listed. Should it
// be none any more, this fails and never waits: nobody could stop it.
func readManifest(name string) ([]byte, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it is read from only
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New(notRegular(info.Mode()))
	}
	var content bytes.Buffer
	if info.Size() <= maxFileSize {
		content.Grow(int(info.Size()) + bytes.MinRead)
		_, err = content.ReadFrom(io.LimitReader(file, maxFileSize+1)) // it may be growing
	}
	if info.Size() > maxFileSize || content.Len() > maxFileSize {
		return nil, fmt.Errorf("is larger than %d MiB; split it into several files", maxFileSize>>20)
	}
	return content.Bytes(), err
}

// notRegular says what a path leads to that is neither file nor directory, and
// what to do: reading it could wait forever or never end.
func notRegular(mode fs.FileMode) string {
	what := "a device"
	switch {
	case mode&fs.ModeNamedPipe != 0:
		what = "a pipe"
	case mode&fs.ModeSocket != 0:
		what = "a socket"
	case mode.IsDir():
		what = "a directory"
	}
	return "is " + what + ", which is not read; write the objects to a regular file and name that"
}

func unreadable(path string, err error) *Problem {
	message := err.Error()
	var cause *fs.PathError
	if errors.As(err, &cause) {
		message = fmt.Sprintf("cannot be read: %v", cause.Err)
	}
	return &Problem{File: path, Message: message}
}
