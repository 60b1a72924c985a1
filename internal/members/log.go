package members

import (
	"bytes"
	"log"
	"strings"
)

// undecipherable is what memberlist logs of a message that no key opens.
const undecipherable = "no installed keys could decrypt the message"

func (m *Members) logger() *log.Logger { return log.New((*logWriter)(m), "", 0) }

// logWriter gives memberlist's log to ours. What it calls an error is mostly that
// somebody is gone, which we tell in our own words.
type logWriter Members

// Write writes one line.
func (w *logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if strings.Contains(strings.ToLower(text), undecipherable) {
		w.mu.Lock()
		w.refused++
		w.mu.Unlock()
	}
	level := 4
	switch {
	case strings.HasPrefix(text, "[ERR]"), strings.HasPrefix(text, "[WARN]"):
		level = 2
	case strings.HasPrefix(text, "[DEBUG]"):
		level = 6
	}
	w.config.Logger.V(level).Info("memberlist", "message", text)
	return len(line), nil
}
