package apisim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Server serves objects until it is closed. Safe for concurrent use.
type Server struct {
	http       *http.Server
	kubeconfig []byte
	tables     []*table
	closing    context.Context

	mu      sync.Mutex // guards everything below, and what is in tables
	version uint64
	counts  map[Request]int
	streams map[Stream]*atomic.Int64
}

// Request is what a client has asked for.
type Request struct {
	// Agent is the client's User-Agent up to the first slash.
	Agent string
	// Verb is get, list, watch, create, update, patch or delete.
	Verb string
	// Resource, with "/status" for that subresource.
	Resource string
}

// Stream is all watches of a resource by clients of one name.
type Stream struct{ Agent, Resource string }

// Start serves at a listener, for clients that know it by its address.
func Start(l net.Listener) (*Server, error) {
	identity, authority, err := certify(l.Addr())
	if err != nil {
		return nil, err
	}
	closing, end := context.WithCancel(context.Background())
	s := &Server{
		kubeconfig: kubeconfig("https://"+l.Addr().String(), authority),
		closing:    closing, version: 1, counts: map[Request]int{}, streams: map[Stream]*atomic.Int64{},
	}
	for _, r := range resources {
		s.tables = append(s.tables, newTable(r))
	}
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve), TLSConfig: identity, ErrorLog: log.New(io.Discard, "", 0)}
	s.http.RegisterOnShutdown(end)
	go func() { _ = s.http.ServeTLS(l, "", "") }() // ErrServerClosed, or clients see it
	return s, nil
}

// Close ends all connections.
func (s *Server) Close() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return errors.Join(ignore(s.http.Shutdown(ended), context.Canceled), s.http.Close())
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

// Kubeconfig is what clients need.
func (s *Server) Kubeconfig() []byte { return slices.Clone(s.kubeconfig) }

// Requests returns how many of each there were.
func (s *Server) Requests() map[Request]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// WatchBytes returns how many bytes watches were sent, without TLS and HTTP.
func (s *Server) WatchBytes() map[Stream]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := make(map[Stream]int64, len(s.streams))
	for stream, n := range s.streams {
		sent[stream] = n.Load()
	}
	return sent
}

// call is a request, understood.
type call struct {
	*table
	name        types.NamespacedName // no Name: all of the namespace
	subresource string
	format      format
	agent       string
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case path[0] == "version":
		answer(w, http.StatusOK, map[string]string{"major": "1", "minor": "37", "gitVersion": "v1.37.2"})
		return
	case len(path) < 2 || path[0] == "apis" && len(path) < 3:
		http.NotFound(w, r)
		return
	}
	version, rest := schema.GroupVersion{Version: path[1]}, path[2:]
	if path[0] == "apis" {
		version, rest = schema.GroupVersion{Group: path[1], Version: path[2]}, path[3:]
	}
	if len(rest) == 0 {
		s.discover(w, version)
		return
	}
	c := call{agent: strings.SplitN(r.UserAgent(), "/", 2)[0]}
	if len(rest) > 2 && rest[0] == "namespaces" && rest[2] != "status" {
		c.name.Namespace, rest = rest[1], rest[2:]
	}
	i := slices.IndexFunc(s.tables, func(t *table) bool { return t.GroupVersion == version && t.name == rest[0] })
	if i < 0 || len(rest) > 3 {
		http.NotFound(w, r)
		return
	}
	c.table = s.tables[i]
	if len(rest) > 1 {
		c.name.Name = rest[1]
	}
	if len(rest) > 2 {
		c.subresource = rest[2]
	}
	c.format = c.wanted(r)
	s.dispatch(w, r, c)
}

// count notes the request.
func (s *Server) count(c call, verb string) {
	resource := c.table.name
	if c.subresource != "" {
		resource += "/" + c.subresource
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[Request{c.agent, verb, resource}]++
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, c call) {
	var e *entry
	var err error
	switch r.Method {
	case http.MethodGet:
		if c.name.Name == "" {
			s.read(w, r, c)
			return
		}
		s.count(c, "get")
		s.mu.Lock()
		e = c.objects[c.name]
		s.mu.Unlock()
	case http.MethodDelete:
		s.count(c, "delete")
		s.mu.Lock()
		e = s.remove(c.table, c.name)
		s.mu.Unlock()
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		e, err = s.write(r, c)
	default:
		err = fmt.Errorf("method %s is not served", r.Method)
	}
	switch {
	case err != nil:
		status := statusOf(err)
		answer(w, int(status.Code), status)
	case e == nil:
		status := statusOf(apierrors.NewNotFound(c.groupResource(), c.name.Name))
		answer(w, int(status.Code), status)
	default:
		w.Header().Set("Content-Type", c.format.contentType())
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusCreated)
		}
		_, _ = w.Write(e.body(c.format)) // or the client is gone
	}
}

// write does what POST, PUT and PATCH ask for.
func (s *Server) write(r *http.Request, c call) (*entry, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	manager := r.URL.Query().Get("fieldManager")
	if r.Method == http.MethodPatch {
		s.count(c, "patch")
		return s.patch(c, r.Header.Get("Content-Type"), body, manager)
	}
	o, err := decode(body)
	if err != nil {
		return nil, err
	}
	if o.GetNamespace() == "" {
		o.SetNamespace(c.name.Namespace)
	}
	verb := map[string]string{http.MethodPost: "create", http.MethodPut: "update"}[r.Method]
	s.count(c, verb)
	s.mu.Lock()
	defer s.mu.Unlock()
	if verb == "create" {
		return s.create(c.table, o)
	}
	return s.update(c.table, o, c.subresource, manager)
}

func decode(body []byte) (Object, error) {
	decoded, kind, err := codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return nil, err
	}
	o, ok := decoded.(Object)
	if !ok {
		return nil, fmt.Errorf("%s has no metadata", kind)
	}
	return o, nil
}

// patch merges; other ways to patch are not served.
func (s *Server) patch(c call, contentType string, body []byte, manager string) (*entry, error) {
	if contentType != string(types.MergePatchType) {
		return nil, fmt.Errorf("%s is not served", contentType)
	}
	var changes, whole map[string]any
	if err := json.Unmarshal(body, &changes); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := c.objects[c.name]
	if before == nil {
		return nil, nil
	}
	if err := json.Unmarshal(before.body(asJSON), &whole); err != nil {
		return nil, err
	}
	merge(whole, changes)
	o, err := decode(must(json.Marshal(whole)))
	if err != nil {
		return nil, err
	}
	return s.update(c.table, o, c.subresource, manager)
}

// merge is RFC 7386.
func merge(to, changes map[string]any) {
	for key, change := range changes {
		inner, ok := change.(map[string]any)
		switch {
		case change == nil:
			delete(to, key)
		case ok:
			next, ok := to[key].(map[string]any)
			if !ok {
				next = map[string]any{}
			}
			merge(next, inner)
			to[key] = next
		default:
			to[key] = change
		}
	}
}

// discover tells which resources a group has in a version.
func (s *Server) discover(w http.ResponseWriter, version schema.GroupVersion) {
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: version.String()}
	for _, t := range s.tables {
		if t.GroupVersion == version {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: t.name, Kind: t.kind, Namespaced: t.namespaced, Verbs: metav1.Verbs{"get", "list", "watch", "create", "update", "patch", "delete"},
			})
		}
	}
	if len(list.APIResources) == 0 {
		status := statusOf(apierrors.NewNotFound(schema.GroupResource{Group: version.Group}, version.Version))
		answer(w, int(status.Code), status)
		return
	}
	answer(w, http.StatusOK, list)
}

func answer(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(code)
	_, _ = w.Write(text) // or the client is gone
}
