package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// view is what statuses and reports are made from.
type view struct {
	snapshot topology.Snapshot
	graph    *topology.Graph
	report   topology.NodeReport
	// addresses of this node.
	addresses []netip.Addr
	// findings about the host.
	findings []v1alpha1.Finding
	// announcing are the addresses that this node answers for.
	announcing []v1alpha1.Announced
}

// statusWriter writes the statuses to a file and a stream. It works beside the
// loop: formatting thousands of statuses must not hold up an endpoint change.
type statusWriter struct {
	file  string    // empty: none
	out   io.Writer // statuses printed on request, and on change if echo is set
	echo  bool
	clock clock.Clock

	requested chan struct{} // somebody wants them printed
	fresh     chan struct{} // latest changed

	mu     sync.Mutex // guards latest
	latest *view

	// Of the goroutine that runs.
	transitions cluster.Transitions
	seen        *view  // the view that text was made from
	text        []byte // as last made
	written     []byte // as in the file
}

func newStatusWriter(file string, out io.Writer, echo bool, c clock.Clock) *statusWriter {
	w := &statusWriter{
		file: file, out: out, echo: echo, clock: c,
		requested: make(chan struct{}, 1),
		fresh:     make(chan struct{}, 1),
	}
	if file != "" {
		// A restart does not move lastTransitionTime. Without a file, or with
		// another's, the times begin now.
		if old, err := os.ReadFile(file); err == nil {
			w.transitions.Restore(old)
		}
	}
	return w
}

// offer hands over the latest view; one that says nothing new is dropped.
func (w *statusWriter) offer(v view) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.latest != nil && w.latest.graph == v.graph && sameReport(w.latest.report, v.report) {
		return
	}
	w.latest = &v
	signal(w.fresh)
}

// request asks for the statuses to be printed.
func (w *statusWriter) request() { signal(w.requested) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// statusRetry is when a file that could not be written is tried again.
const statusRetry = 5 * time.Second

// run writes until ctx ends, the last view included.
func (w *statusWriter) run(ctx context.Context) {
	var retry <-chan time.Time
	update := func() {
		err := w.update()
		w.log(ctx, err)
		if retry = nil; err != nil {
			retry = w.clock.After(statusRetry)
		}
	}
	for {
		select {
		case <-ctx.Done():
			w.log(ctx, w.update())
			return
		case <-w.fresh:
			update()
		case <-retry:
			update()
		case <-w.requested:
			update()
			if _, err := w.out.Write(w.text); err != nil {
				w.log(ctx, fmt.Errorf("print statuses: %w", err))
			}
		}
	}
}

func (w *statusWriter) log(ctx context.Context, err error) {
	if err != nil {
		klog.FromContext(ctx).Error(err, "Could not write statuses")
	}
}

// update makes the text of the latest view and writes it where it is new.
func (w *statusWriter) update() error {
	w.mu.Lock()
	latest := w.latest
	w.mu.Unlock()
	if latest == nil {
		return nil
	}
	changed := false
	if latest != w.seen {
		text, err := w.format(latest)
		if err != nil {
			return err
		}
		changed = !bytes.Equal(text, w.text)
		w.seen, w.text = latest, text
	}
	var errs []error
	if changed && w.echo {
		if _, err := w.out.Write(w.text); err != nil {
			errs = append(errs, fmt.Errorf("print statuses: %w", err))
		}
	}
	if w.file != "" && (w.written == nil || !bytes.Equal(w.text, w.written)) {
		if err := replaceFile(w.file, w.text); err != nil {
			errs = append(errs, fmt.Errorf("write statuses: %w", err))
		} else {
			w.written = w.text // a new text is a new slice
		}
	}
	return errors.Join(errs...)
}

func (w *statusWriter) format(v *view) ([]byte, error) {
	statuses := v.graph.Statuses(topology.Reports{Nodes: []topology.NodeReport{v.report}})
	objects := cluster.StatusObjects(&v.snapshot, statuses)
	w.transitions.Apply(objects, metav1.NewTime(w.clock.Now()))
	return cluster.StatusYAML(objects)
}

// replaceFile writes a file so that a reader sees the old content or the new one.
func replaceFile(name string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil { // /run is empty after a boot
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }() // gone after the rename
	_, err = temp.Write(content)
	err = errors.Join(err, temp.Chmod(fs.FileMode(0o644)), temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), name)
}
