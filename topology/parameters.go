package topology

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// KindGatewayParameters is the kind of what parametersRefs refer to.
const KindGatewayParameters gatewayv1.Kind = "GatewayParameters"

// choice is a GatewayParameters as read: what it says, or why it cannot be.
type choice struct {
	name string // "GatewayParameters infra/edge"
	spec *v1alpha1.GatewayParametersSpec
	// nodes is of the nodeSelector, nil without one.
	nodes labels.Selector
	wrong problem
}

// problem is what is wrong with parameters, and in which field. The zero value is none.
type problem struct{ field, text string }

func (p problem) exists() bool { return p.text != "" }

// choiceIndex reads each GatewayParameters once, when it is first referred to.
type choiceIndex struct {
	sources map[types.NamespacedName]*v1alpha1.GatewayParameters
	read    map[types.NamespacedName]*choice
}

// find returns nil where there is none.
func (c *choiceIndex) find(key types.NamespacedName) *choice {
	if known, ok := c.read[key]; ok {
		return known
	}
	var made *choice
	if source := c.sources[key]; source != nil {
		made = &choice{name: fmt.Sprintf("%s %s", KindGatewayParameters, key), spec: &source.Spec}
		made.wrong = made.check()
	}
	c.read[key] = made
	return made
}

// check judges what is wrong whoever refers to it. The API server refuses most of it.
func (c *choice) check() problem {
	spec := c.spec
	switch spec.Mode {
	case "", v1alpha1.AddressModeNode, v1alpha1.AddressModePool, v1alpha1.AddressModeLoadBalancer:
	default:
		return unknownValue("spec.mode", spec.Mode, "Node, Pool, LoadBalancer")
	}
	for i, family := range spec.IPFamilies {
		if family != corev1.IPv4Protocol && family != corev1.IPv6Protocol {
			return unknownValue(indexed("spec.ipFamilies", i), family, "IPv4, IPv6")
		}
	}
	switch spec.NodeAddressType {
	case "", v1alpha1.NodeAddressInternal, v1alpha1.NodeAddressExternal:
	default:
		return unknownValue("spec.nodeAddressType", spec.NodeAddressType, "Internal, External")
	}
	if spec.NodeSelector != nil {
		nodes, err := metav1.LabelSelectorAsSelector(spec.NodeSelector)
		if err != nil {
			return badSelector("spec.nodeSelector", err)
		}
		c.nodes = nodes
	}
	if spec.Mode != "" {
		return c.fits(spec.Mode)
	}
	return problem{}
}

// fits finds the field that is of another mode.
func (c *choice) fits(mode v1alpha1.AddressMode) problem {
	for _, f := range []struct {
		field string
		given bool
		mode  v1alpha1.AddressMode
	}{
		{"spec.pool", c.spec.Pool != "", v1alpha1.AddressModePool},
		{"spec.nodeSelector", c.spec.NodeSelector != nil, v1alpha1.AddressModeNode},
		{"spec.nodeAddressType", c.spec.NodeAddressType != "", v1alpha1.AddressModeNode},
		{"spec.loadBalancerClass", c.spec.LoadBalancerClass != "", v1alpha1.AddressModeLoadBalancer},
	} {
		if f.given && f.mode != mode {
			return ofOtherMode(f.field, f.mode, mode)
		}
	}
	return problem{}
}

// terms are what a class demands of its Gateways and lets them choose.
type terms struct {
	choice
	class string
	mode  v1alpha1.AddressMode
	modes []v1alpha1.AddressMode // those a Gateway may choose, its own first
	// families a Gateway may choose; empty: the class names none.
	families []corev1.IPFamily
	// named are the pools that may be named, auto those with autoAssign as well.
	named []string
	auto  bool
}

// classTerms reads what a class refers to; without a parametersRef that is mode Node.
func classTerms(class *gatewayv1.GatewayClass, all *choiceIndex, pools map[string]*Pool) (*terms, fault) {
	t := &terms{choice: choice{spec: &v1alpha1.GatewayParametersSpec{}}, class: class.Name, mode: v1alpha1.AddressModeNode}
	if ref := class.Spec.ParametersRef; ref != nil {
		switch {
		case string(ref.Group) != v1alpha1.GroupName || ref.Kind != KindGatewayParameters:
			return t, classParametersUnsupported(ref)
		case ptr.Deref(ref.Namespace, "") == "":
			return t, classParametersWithoutNamespace(ref)
		}
		key := types.NamespacedName{Namespace: string(*ref.Namespace), Name: ref.Name}
		found := all.find(key)
		if found == nil {
			return t, classParametersMissing(key)
		}
		t.choice = *found
		t.mode = cmp.Or(found.spec.Mode, v1alpha1.AddressModeNode)
		if t.wrong = t.problem(pools); t.wrong.exists() {
			return t, classParametersInvalid(t.name, t.wrong)
		}
	}
	permitted := ptr.Deref(t.spec.Permitted, v1alpha1.PermittedParameters{})
	t.modes = append([]v1alpha1.AddressMode{t.mode}, permitted.Modes...)
	t.families = slices.Concat(t.spec.IPFamilies, permitted.IPFamilies)
	t.named = permitted.Pools
	switch {
	case t.spec.Pool != "":
		t.named = append([]string{t.spec.Pool}, permitted.Pools...)
	case t.mode == v1alpha1.AddressModePool, len(permitted.Pools) == 0:
		t.auto = true
	}
	return t, fault{}
}

// problem finds what is wrong with parameters as those of a class.
func (t *terms) problem(pools map[string]*Pool) problem {
	if t.wrong.exists() {
		return t.wrong
	}
	if wrong := t.fits(t.mode); wrong.exists() {
		return wrong
	}
	if t.spec.Pool != "" && pools[t.spec.Pool] == nil {
		return poolMissing(t.spec.Pool)
	}
	return problem{}
}

// permits reports whether a Gateway may have addresses of a pool.
func (t *terms) permits(pool *Pool) bool {
	return slices.Contains(t.named, pool.Name) || t.auto && pool.autoAssign
}

// objection finds what a Gateway's own parameters choose that is not its to choose.
func (t *terms) objection(own *choice, pools map[string]*Pool) problem {
	spec, mode := own.spec, cmp.Or(own.spec.Mode, t.mode)
	if own.wrong.exists() {
		return own.wrong
	}
	if !slices.Contains(t.modes, mode) {
		return t.notPermitted("spec.mode", string(mode), names(t.modes))
	}
	if wrong := own.fits(mode); wrong.exists() {
		return wrong
	}
	switch permitted := ptr.Deref(t.spec.Permitted, v1alpha1.PermittedParameters{}); {
	case spec.NodeAddressType != "" && spec.NodeAddressType != t.spec.NodeAddressType:
		return t.notToChoose("spec.nodeAddressType")
	case spec.LoadBalancerClass != "" && spec.LoadBalancerClass != t.spec.LoadBalancerClass:
		return t.notToChoose("spec.loadBalancerClass")
	case spec.NodeSelector != nil && !permitted.NodeSelector:
		return t.notToChoose("spec.nodeSelector")
	}
	for i, family := range spec.IPFamilies {
		free := len(t.families) == 0 && mode == v1alpha1.AddressModeNode
		if !free && !slices.Contains(t.families, family) {
			return t.notPermitted(indexed("spec.ipFamilies", i), string(family), names(t.families))
		}
	}
	if spec.Pool == "" {
		return problem{}
	}
	switch pool := pools[spec.Pool]; {
	case pool == nil && !slices.Contains(t.named, spec.Pool), pool != nil && !t.permits(pool):
		// Whether there is a pool that is not for this Gateway is not told.
		return t.notPermitted("spec.pool", "AddressPool "+spec.Pool, t.named)
	case pool == nil:
		return poolMissing(spec.Pool)
	}
	return problem{}
}
