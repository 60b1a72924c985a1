package members

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const line1, line2 = "aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb"

var key1, key2 = key(sha256.Sum256([]byte(line1))), key(sha256.Sum256([]byte(line2)))

func TestReadKeys(t *testing.T) {
	for _, tt := range []struct {
		name, content string
		want          []key
		err           string
	}{
		{name: "one", content: line1, want: []key{key1}},
		{name: "two and blanks", content: "\n " + line2 + "\r\n\n" + line1 + "\n" + line2, want: []key{key2, key1}},
		{name: "too short", content: line1 + "\nsecret", err: "line 2 has fewer than 16 characters; use the output of: openssl rand -base64 32"},
		{name: "empty", content: " \n", err: "is empty; put the output of: openssl rand -base64 32 into it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readKeys(path)
			if !slices.Equal(got, tt.want) || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("keys %v, error %v", got, err)
			}
			if err != nil && !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
	if _, err := readKeys("/nonexistent/key"); err == nil || !strings.Contains(err.Error(), "mount a Secret there") {
		t.Errorf("a missing file: %v", err)
	}
}

// TestRotation replaces the only key in a Secret. Nodes see the new file at different
// times, up to 2 minutes apart; at every time each understands each other.
func TestRotation(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	start := time.Unix(1e9, 0)
	for range 20 {
		var nodes []*keyring
		var sees []time.Time
		for range 5 {
			k, err := newKeyring([]key{key1})
			if err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, k)
			sees = append(sees, start.Add(time.Duration(random.Int64N(int64(2*time.Minute)))))
		}
		for now := start; now.Before(start.Add(20 * time.Minute)); now = now.Add(10 * time.Second) {
			for i, k := range nodes {
				file := []key{key1}
				if !now.Before(sees[i]) {
					file = []key{key2}
				}
				if err := k.update(file, now); err != nil {
					t.Fatal(err)
				}
			}
			for i, from := range nodes {
				for j, to := range nodes {
					used := from.ring.GetPrimaryKey()
					if !slices.ContainsFunc(to.ring.GetKeys(), func(k []byte) bool { return bytes.Equal(k, used) }) {
						t.Fatalf("after %s node %d does not understand node %d", now.Sub(start), j, i)
					}
				}
			}
		}
		for i, k := range nodes {
			if keys := k.ring.GetKeys(); len(keys) != 1 || !bytes.Equal(keys[0], key2[:]) {
				t.Errorf("node %d has %d keys at the end, of which it uses %x", i, len(keys), keys[0])
			}
		}
	}
}
