package apisim

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
)

// bookmarkInterval is how often a watch is told the latest version, as often as by a real
// API server.
const bookmarkInterval = time.Minute

// selection is which objects a client wants.
type selection struct {
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

func (c *call) selection(query url.Values) (s selection, err error) {
	s.namespace = c.name.Namespace
	if s.labels, err = labels.Parse(query.Get("labelSelector")); err != nil {
		return s, err
	}
	s.fields, err = fields.ParseSelector(query.Get("fieldSelector"))
	return s, err
}

func (s *selection) has(e *entry) bool {
	if e == nil {
		return false
	}
	o := e.object
	return (s.namespace == "" || s.namespace == o.GetNamespace()) && s.labels.Matches(e.labels()) &&
		s.fields.Matches(fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()})
}

// all returns the objects that are wanted.
func (s *selection) all(t *table) []*entry {
	var entries []*entry
	for _, e := range t.objects {
		if s.has(e) {
			entries = append(entries, e)
		}
	}
	return entries
}

// frame is what the client is told of an event, nil for nothing: an object that it no longer
// wants is deleted to it.
func (s *selection) frame(f format, e event) []byte {
	had, has := s.has(e.before), s.has(e.after) && e.what != watch.Deleted
	switch {
	case had && has:
		return e.after.frame(f, watch.Modified)
	case has:
		return e.after.frame(f, watch.Added)
	case had:
		return e.after.frame(f, watch.Deleted)
	default:
		return nil
	}
}

// read answers a list or a watch.
func (s *Server) read(w http.ResponseWriter, r *http.Request, c call) {
	query := r.URL.Query()
	chosen, err := c.selection(query)
	if err != nil {
		status := statusOf(err)
		answer(w, int(status.Code), status)
		return
	}
	if on := query.Get("watch"); on == "true" || on == "1" {
		s.count(c, "watch")
		s.watch(w, r, c, chosen)
		return
	}
	s.count(c, "list")
	s.mu.Lock()
	entries, version := chosen.all(c.table), s.version
	s.mu.Unlock()
	w.Header().Set("Content-Type", c.format.contentType())
	_, _ = w.Write(c.listBody(c.format, entries, version)) // or the client is gone
}

// stream writes to one watch.
type stream struct {
	w    http.ResponseWriter
	sent *atomic.Int64
	err  error
}

func (s *stream) write(frame []byte) {
	if s.err == nil && frame != nil {
		_, s.err = s.w.Write(frame)
		s.sent.Add(int64(len(frame)))
	}
}

func (s *stream) flush() {
	if s.err == nil {
		s.err = http.NewResponseController(s.w).Flush()
	}
}

// begin returns what a watch begins with, the number of the first event that follows and the
// version before it.
func (s *Server) begin(c call, chosen selection, query url.Values) (first []*entry, next int, version uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := query.Get("resourceVersion")
	if query.Get("sendInitialEvents") == "true" || from == "" || from == "0" {
		return chosen.all(c.table), c.dropped + len(c.events), s.version, nil
	}
	version, err = strconv.ParseUint(from, 10, 64)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("resourceVersion: %w", err)
	}
	next, known := c.after(version)
	if !known {
		return nil, 0, 0, apierrors.NewResourceExpired("too old resource version: " + from)
	}
	return nil, next, version, nil
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, c call, chosen selection) {
	query := r.URL.Query()
	first, next, version, err := s.begin(c, chosen, query)
	if err != nil {
		status := statusOf(err)
		answer(w, int(status.Code), status)
		return
	}
	contentType := c.format.contentType()
	if c.format == asProtobuf {
		contentType += ";stream=watch"
	}
	w.Header().Set("Content-Type", contentType)
	out := &stream{w: w, sent: s.stream(c)}
	for _, e := range first {
		out.write(e.frame(c.format, watch.Added))
	}
	if query.Get("sendInitialEvents") == "true" {
		out.write(c.bookmark(c.format, version, true))
	}
	out.flush()

	timeout := time.Hour
	if seconds, err := strconv.Atoi(query.Get("timeoutSeconds")); err == nil {
		timeout = time.Duration(seconds) * time.Second
	}
	end := time.NewTimer(timeout)
	defer end.Stop()
	bookmarks := time.NewTicker(bookmarkInterval)
	defer bookmarks.Stop()
	for out.err == nil {
		events, changed, known := s.since(c.table, next)
		if !known {
			expired := apierrors.NewResourceExpired("the watch is too slow")
			out.write(errorFrame(c.format, statusOf(expired)))
			out.flush()
			return
		}
		for _, e := range events {
			out.write(chosen.frame(c.format, e))
		}
		if next += len(events); len(events) > 0 {
			out.flush()
			continue
		}
		select {
		case <-changed:
		case <-bookmarks.C:
			if strings.HasPrefix(query.Get("allowWatchBookmarks"), "t") {
				out.write(c.bookmark(c.format, s.latest(c.table, next), false))
				out.flush()
			}
		case <-end.C:
			return
		case <-r.Context().Done():
			return
		case <-s.closing.Done():
			return
		}
	}
}

func (s *Server) stream(c call) *atomic.Int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := Stream{c.agent, c.table.name}
	if s.streams[key] == nil {
		s.streams[key] = new(atomic.Int64)
	}
	return s.streams[key]
}

// since returns the events from a number on, and what is closed when there are more; false:
// they were dropped.
func (s *Server) since(t *table, next int) ([]event, <-chan struct{}, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next < t.dropped {
		return nil, nil, false
	}
	return t.events[next-t.dropped:], t.changed, true
}

// latest is the version that a watch is at that was sent all events before a number.
func (s *Server) latest(t *table, next int) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := next - t.dropped; i >= 0 && i < len(t.events) {
		return t.events[i].after.version - 1
	}
	return s.version
}

// bookmark is an event that only tells the version, and whether the first list is over.
func (r *resource) bookmark(f format, version uint64, initial bool) []byte {
	o := must(r.empty())
	if initial {
		o.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return newEntry(o, r.groupVersionKind(), version).frame(f, watch.Bookmark)
}

// errorFrame ends a watch.
func errorFrame(f format, status *metav1.Status) []byte {
	e := &entry{kind: metav1.SchemeGroupVersion.WithKind("Status")}
	e.kind.Group = ""
	e.encoded[f] = func() []byte { return must(marshalStatus(f, status)) }
	return e.frame(f, watch.Error)
}
