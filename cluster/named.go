package cluster

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// named is the metadata of an object of which nothing else is needed: metav1.ObjectMeta
// takes five times its memory. Immutable.
type named struct {
	*metav1.ObjectMeta // noMetadata
	namespace, name    string
	resourceVersion    string // which a feed goes by
}

// noMetadata is what there is to say of the rest.
var noMetadata = &metav1.ObjectMeta{}

func nameOnly(o metav1.Object) named {
	return named{noMetadata, o.GetNamespace(), o.GetName(), o.GetResourceVersion()}
}

func (n *named) GetNamespace() string       { return n.namespace }
func (n *named) GetName() string            { return n.name }
func (n *named) GetResourceVersion() string { return n.resourceVersion }

// GetObjectKind makes it an Object; nobody asks for its kind.
func (*named) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }
