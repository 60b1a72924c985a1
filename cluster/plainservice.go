package cluster

import (
	"maps"
	"sync"
	"weak"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// plainService is a Service of which only ports and policies matter, as of nearly all:
// neither is it of a Gateway, nor has it node ports, which belong to the older one. What
// matters of it is much the same for all, so that those that are alike have one
// corev1.Service, without a name. Immutable.
type plainService struct {
	named
	content *corev1.Service
}

// DeepCopyObject returns a copy that has the content in common.
func (s *plainService) DeepCopyObject() runtime.Object {
	c := *s
	return &c
}

// newPlainService keeps of a Service its name; content is all that matters of it.
func newPlainService(s *corev1.Service, content corev1.ServiceSpec) *plainService {
	return &plainService{nameOnly(s), alike.share(content)}
}

// alike has the content of all Services that this process reads.
var alike = alikeServices{known: map[string]weak.Pointer[corev1.Service]{}}

// alikeServices hands out one Service for equal content as long as somebody has it. It must
// not be changed. Safe for concurrent use.
type alikeServices struct {
	mu    sync.Mutex // guards everything below
	known map[string]weak.Pointer[corev1.Service]
	sweep int // as many make it worth while to look for those that nobody has any more
}

func (a *alikeServices) share(content corev1.ServiceSpec) *corev1.Service {
	service := &corev1.Service{Spec: content}
	encoded, err := content.Marshal()
	if err != nil { // it has no field that could not be encoded
		return service
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if known := a.known[string(encoded)].Value(); known != nil {
		return known
	}
	if len(a.known) >= a.sweep {
		maps.DeleteFunc(a.known, func(_ string, p weak.Pointer[corev1.Service]) bool { return p.Value() == nil })
		a.sweep = 2*len(a.known) + 16
	}
	a.known[string(encoded)] = weak.Make(service)
	return service
}
