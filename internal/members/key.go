package members

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// useAfter is how long a new key is only understood: until then every node's
	// kubelet has put the new content of the Secret into its file (its sync period and
	// the time it caches Secrets, a minute each).
	useAfter = 3 * time.Minute
	// keepFor is how long a key is understood that has gone from the file.
	keepFor = 10 * time.Minute
	// minKey is the least length of a line; shorter ones can be guessed.
	minKey = 16
)

// key is what is encrypted with: the SHA-256 of a line, so that any text will do.
type key [sha256.Size]byte

// readKeys reads a key file.
func readKeys(path string) ([]key, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the members' key: %w; mount a Secret there, with a value such as that of: openssl rand -base64 32", err)
	}
	var keys []key
	scanner := bufio.NewScanner(bytes.NewReader(content))
	for number := 1; scanner.Scan(); number++ {
		line := bytes.TrimSpace(scanner.Bytes())
		switch {
		case len(line) == 0:
		case len(line) < minKey:
			return nil, fmt.Errorf("members' key in %s: line %d has fewer than %d characters; use the output of: openssl rand -base64 32", path, number, minKey)
		default:
			if k := key(sha256.Sum256(line)); !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("read the members' key from %s: %w", path, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("members' key: %s is empty; put the output of: openssl rand -base64 32 into it", path)
	}
	return keys, nil
}

// keyring follows the key file so that at no time two members with an older and a
// newer file cannot understand each other.
type keyring struct {
	ring  *memberlist.Keyring
	added map[key]time.Time
	gone  map[key]time.Time
}

// newKeyring uses the first key at once: others know it already, or will not be
// understood by anything that is done here.
func newKeyring(keys []key) (*keyring, error) {
	k := &keyring{added: map[key]time.Time{}, gone: map[key]time.Time{}}
	var all [][]byte
	for _, key := range keys {
		k.added[key] = time.Time{}
		all = append(all, key[:])
	}
	var err error
	k.ring, err = memberlist.NewKeyring(all, all[0])
	return k, err
}

// update brings the ring closer to the file, and is to be called again from time to
// time with the same keys.
func (k *keyring) update(keys []key, now time.Time) error {
	var errs []error
	for _, key := range keys {
		delete(k.gone, key)
		if _, known := k.added[key]; !known {
			k.added[key] = now
			errs = append(errs, k.ring.AddKey(key[:]))
		}
	}
	first := keys[0]
	if !bytes.Equal(k.ring.GetPrimaryKey(), first[:]) && now.Sub(k.added[first]) >= useAfter {
		errs = append(errs, k.ring.UseKey(first[:]))
	}
	for key := range k.added {
		if slices.Contains(keys, key) {
			continue
		}
		if _, noted := k.gone[key]; !noted {
			k.gone[key] = now
		}
		if now.Sub(k.gone[key]) >= keepFor && !bytes.Equal(k.ring.GetPrimaryKey(), key[:]) {
			errs = append(errs, k.ring.RemoveKey(key[:]))
			delete(k.added, key)
			delete(k.gone, key)
		}
	}
	return errors.Join(errs...)
}
