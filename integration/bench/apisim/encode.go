package apisim

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// format is how a client wants objects.
type format int

const (
	asJSON     format = iota
	asProtobuf        // kinds of Kubernetes itself
	asMetadata        // metadata only, in JSON
)

// protobufMagic begins every object in protobuf.
var protobufMagic = []byte{'k', '8', 's', 0}

// wanted reads the format from a request.
func (r *resource) wanted(request *http.Request) format {
	accept := request.Header.Get("Accept")
	switch o, _ := r.empty(); {
	case strings.Contains(accept, "as=PartialObjectMetadata"), r.kind == crdKind:
		return asMetadata
	case strings.Contains(accept, runtime.ContentTypeProtobuf) && isProtobuf(o):
		return asProtobuf
	default:
		return asJSON
	}
}

type protobuf interface{ Marshal() ([]byte, error) }

func isProtobuf(o Object) bool {
	_, ok := o.(protobuf)
	return ok
}

func (f format) contentType() string {
	if f == asProtobuf {
		return runtime.ContentTypeProtobuf
	}
	return runtime.ContentTypeJSON
}

// entry is one version of an object, encoded at most once in each format. It never changes.
type entry struct {
	object  Object
	kind    schema.GroupVersionKind
	version uint64
	encoded [3]func() []byte
}

// newEntry keeps the object.
func newEntry(o Object, kind schema.GroupVersionKind, version uint64) *entry {
	o.SetResourceVersion(strconv.FormatUint(version, 10))
	o.GetObjectKind().SetGroupVersionKind(kind)
	e := &entry{object: o, kind: kind, version: version}
	e.encoded = [3]func() []byte{
		asJSON: sync.OnceValue(func() []byte { return must(json.Marshal(o)) }),
		asProtobuf: sync.OnceValue(func() []byte {
			p, ok := o.(protobuf)
			if !ok {
				return nil // never asked for
			}
			return must(p.Marshal())
		}),
		asMetadata: sync.OnceValue(func() []byte {
			meta := metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"}}
			if a, ok := o.(metav1.ObjectMetaAccessor); ok {
				if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
					meta.ObjectMeta = *m
				}
			}
			return must(json.Marshal(&meta))
		}),
	}
	return e
}

// must returns what encoding objects made of Go values yields: that cannot fail.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func (e *entry) labels() labels.Set { return e.object.GetLabels() }

// body is the object as a whole answer.
func (e *entry) body(f format) []byte {
	if f != asProtobuf {
		return e.encoded[f]()
	}
	return envelope(e.kind, e.encoded[f]())
}

// envelope names in protobuf what the bytes are.
func envelope(kind schema.GroupVersionKind, raw []byte) []byte {
	apiVersion, name := kind.ToAPIVersionAndKind()
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: name}, Raw: raw}
	return append(append(make([]byte, 0, len(raw)+128), protobufMagic...), must(unknown.Marshal())...)
}

// frame is the object as one event of a watch.
func (e *entry) frame(f format, what watch.EventType) []byte {
	if f != asProtobuf {
		return fmt.Appendf(nil, "{\"type\":%q,\"object\":%s}\n", what, e.body(f))
	}
	event := metav1.WatchEvent{Type: string(what), Object: runtime.RawExtension{Raw: e.body(f)}}
	raw := must(event.Marshal())
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, len(raw)+4), uint32(len(raw))), raw...)
}

func marshalStatus(f format, status *metav1.Status) ([]byte, error) {
	if f == asProtobuf {
		return status.Marshal()
	}
	return json.Marshal(status)
}

// listBody is the answer to a list.
func (r *resource) listBody(f format, entries []*entry, version uint64) []byte {
	kind := r.WithKind(r.kind + "List")
	if f == asMetadata {
		kind = schema.GroupVersionKind{Group: "meta.k8s.io", Version: "v1", Kind: "PartialObjectMetadataList"}
	}
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatUint(version, 10)}
	if f == asProtobuf {
		raw := appendField(nil, 1, must(meta.Marshal()))
		for _, e := range entries {
			raw = appendField(raw, 2, e.encoded[f]())
		}
		return envelope(kind, raw)
	}
	apiVersion, name := kind.ToAPIVersionAndKind()
	body := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, name, apiVersion, must(json.Marshal(meta)))
	for i, e := range entries {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, e.encoded[f]()...)
	}
	return append(body, "]}"...)
}

// appendField appends a field of protobuf that has a length.
func appendField(to []byte, number uint64, value []byte) []byte {
	to = binary.AppendUvarint(to, number<<3|2)
	to = binary.AppendUvarint(to, uint64(len(value)))
	return append(to, value...)
}
