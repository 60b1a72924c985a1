package topology

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// namespacePolicy says from which namespaces routes may attach to a listener, or
// ListenerSets to a Gateway. The zero value allows none.
type namespacePolicy struct {
	from     gatewayv1.FromNamespaces
	home     string // what "Same" means
	selector labels.Selector
}

func newNamespacePolicy(from gatewayv1.FromNamespaces, selector *metav1.LabelSelector, home string) (namespacePolicy, error) {
	policy := namespacePolicy{from: from, home: home}
	switch from {
	case gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromNone:
		return policy, nil
	case gatewayv1.NamespacesFromSelector:
		if selector == nil {
			return namespacePolicy{}, errors.New("from is Selector but no selector is given")
		}
		var err error
		if policy.selector, err = metav1.LabelSelectorAsSelector(selector); err != nil {
			return namespacePolicy{}, fmt.Errorf("selector: %w", err)
		}
		return policy, nil
	default:
		return namespacePolicy{}, fmt.Errorf("from %q is none of All, Same, Selector, None", from)
	}
}

func (p namespacePolicy) allows(namespace string, known map[string]*corev1.Namespace) bool {
	switch p.from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return namespace == p.home
	case gatewayv1.NamespacesFromSelector:
		labelled := namespaceLabels{name: namespace}
		if object := known[namespace]; object != nil {
			labelled.labels = object.Labels
		}
		return p.selector.Matches(labelled)
	default:
		return false
	}
}

// namespaceLabels are the labels of a namespace. The API server gives every
// Namespace its name as kubernetes.io/metadata.name; YAML files, where that
// label or the whole Namespace is missing, mean the same.
type namespaceLabels struct {
	name   string
	labels labels.Set
}

func (n namespaceLabels) Lookup(label string) (string, bool) {
	if label == corev1.LabelMetadataName {
		return n.name, true
	}
	return n.labels.Lookup(label)
}

func (n namespaceLabels) Has(label string) bool {
	_, found := n.Lookup(label)
	return found
}

func (n namespaceLabels) Get(label string) string {
	value, _ := n.Lookup(label)
	return value
}
