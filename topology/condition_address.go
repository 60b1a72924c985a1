package topology

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/addresses"
)

// Conditions that have to do with where Gateways are reached.
const (
	// ConditionAddressMode is ours, and the record of where a Gateway's addresses are
	// from: True while it has addresses that are not those of nodes, its reason is the
	// AddressMode. What reads addresses goes by it (RecordedMode). Absent otherwise.
	ConditionAddressMode = "portway.dev/AddressMode"
	// ConditionAddressRetained is ours: a Gateway has addresses that it would not get
	// again. They are served as before. Absent otherwise.
	ConditionAddressRetained = "portway.dev/AddressRetained"
	// ReasonOutsidePool: no pool has the address any more.
	ReasonOutsidePool = "OutsidePool"
	// ReasonPoolDeleting: its pool is being deleted.
	ReasonPoolDeleting = "PoolDeleting"
	// ReasonNotPermitted: its pool has it, but not for this Gateway.
	ReasonNotPermitted = "NotPermitted"
	// ReasonServiceImmutable: the parameters want of its Service what cannot be changed.
	ReasonServiceImmutable = "ServiceImmutable"
	// ReasonInvalidParameters: the parameters of the class or of the Gateway are
	// missing or invalid.
	ReasonInvalidParameters = string(gatewayv1.GatewayReasonInvalidParameters)

	conditionPoolAccepted = "Accepted"
	reasonPoolAccepted    = "Accepted"
	reasonPoolInvalid     = "Invalid"
	reasonPoolOverlapping = "Overlapping"
)

// AddressPool

func (p *Pool) acceptedCondition() Condition {
	switch {
	case p.fault.exists():
		return p.fault.condition(conditionPoolAccepted)
	case p.Deleting:
		return newCondition(conditionPoolAccepted, metav1.ConditionTrue, reasonPoolAccepted,
			"being deleted: no address of it is given out any more, and it goes once no Gateway has one")
	default:
		return newCondition(conditionPoolAccepted, metav1.ConditionTrue, reasonPoolAccepted, "its addresses are given out")
	}
}

func poolAddressInvalid(err error) fault {
	field := "spec.addresses"
	var entry *addresses.EntryError
	if errors.As(err, &entry) {
		field, err = indexed(field, entry.Index), entry.Err
	}
	return faultf(reasonPoolInvalid, "%s: %v", field, err)
}

func poolEmpty() fault { return faultf(reasonPoolInvalid, "spec.addresses is empty; add addresses") }

func poolFieldInvalid(wrong problem) fault {
	return faultf(reasonPoolInvalid, "%s: %s", wrong.field, wrong.text)
}

func poolOverlaps(older *Pool, what string) fault {
	return faultf(reasonPoolOverlapping, "spec.addresses: AddressPool %s, which is older, has %s; leave that out of one of the two", older.Name, what)
}

// givesNothing says why nothing of a pool is given out.
func (p *Pool) givesNothing() string {
	if p.Deleting {
		return fmt.Sprintf("AddressPool %s is being deleted", p.Name)
	}
	return fmt.Sprintf("AddressPool %s is not accepted (%s; see its status)", p.Name, p.fault.reason)
}

// Parameters

func unknownValue[T ~string](field string, value T, allowed string) problem {
	return problem{field, fmt.Sprintf("%q is none of %s; use one of these", value, allowed)}
}

func badSelector(field string, err error) problem {
	return problem{field, fmt.Sprintf("%v; correct it", err)}
}

func badPattern(field, pattern string) problem {
	return problem{field, fmt.Sprintf("%q is no name of an interface and no pattern; use names, or patterns such as eth*", pattern)}
}

func ofOtherMode(field string, needs, is v1alpha1.AddressMode) problem {
	return problem{field, fmt.Sprintf("it is for mode %s, and the mode is %s; remove it or change spec.mode", needs, is)}
}

func poolMissing(name string) problem {
	return problem{"spec.pool", fmt.Sprintf("AddressPool %s does not exist; create it or name another", name)}
}

func (t *terms) notPermitted(field, what string, permitted []string) problem {
	cure := "remove it"
	if len(permitted) > 0 {
		cure = fmt.Sprintf("use %s, or remove it", strings.Join(permitted, " or "))
	}
	return problem{field, fmt.Sprintf("%s is not permitted by GatewayClass %s; %s", what, t.class, cure)}
}

func (t *terms) notToChoose(field string) problem {
	return problem{field, fmt.Sprintf("GatewayClass %s does not let its Gateways choose this; remove it", t.class)}
}

func classParametersUnsupported(ref *gatewayv1.ParametersReference) fault {
	return faultf(gatewayv1.GatewayClassReasonInvalidParameters,
		"spec.parametersRef: %s %q of group %q is not supported; refer to GatewayParameters of group %s, or remove the field", ref.Kind, ref.Name, ref.Group, v1alpha1.GroupName)
}

func classParametersWithoutNamespace(ref *gatewayv1.ParametersReference) fault {
	return faultf(gatewayv1.GatewayClassReasonInvalidParameters,
		"spec.parametersRef.namespace is missing; name the namespace of GatewayParameters %s", ref.Name)
}

func classParametersMissing(key types.NamespacedName) fault {
	return faultf(gatewayv1.GatewayClassReasonInvalidParameters, "spec.parametersRef: %s", parametersMissing(key))
}

func classParametersInvalid(name string, wrong problem) fault {
	return faultf(gatewayv1.GatewayClassReasonInvalidParameters, "%s: %s: %s", name, wrong.field, wrong.text)
}

func gatewayParametersUnsupported(ref *gatewayv1.LocalParametersReference) fault {
	return faultf(gatewayv1.GatewayReasonInvalidParameters,
		"spec.infrastructure.parametersRef: %s %q of group %q is not supported; refer to GatewayParameters of group %s, or remove the field", ref.Kind, ref.Name, ref.Group, v1alpha1.GroupName)
}

func gatewayParametersMissing(key types.NamespacedName) fault {
	return faultf(gatewayv1.GatewayReasonInvalidParameters, "spec.infrastructure.parametersRef: %s", parametersMissing(key))
}

func gatewayParametersInvalid(name string, wrong problem) fault {
	return faultf(gatewayv1.GatewayReasonInvalidParameters, "%s: %s: %s", name, wrong.field, wrong.text)
}

// parametersMissing names the CRD as well: without it, creating the object fails in a
// way that does not lead here.
func parametersMissing(key types.NamespacedName) string {
	return fmt.Sprintf("%s %s does not exist; create it (CRD gatewayparameters.%s), or correct the reference", KindGatewayParameters, key, v1alpha1.GroupName)
}

// Gateway

// parametersInvalid says why nothing is given to the Gateway.
func (p *Parameters) parametersInvalid() string {
	if !p.class.Accepted {
		return fmt.Sprintf("GatewayClass %s is not accepted (%s; see its status)", p.class.Source.Name, p.class.fault.reason)
	}
	if p.known {
		return "spec.addresses is invalid, see condition Accepted"
	}
	return "its parameters are invalid, see condition Accepted"
}

func (p *Parameters) familyNotPermitted(addr netip.Addr) string {
	return fmt.Sprintf("GatewayClass %s gives no %s addresses", p.class.Source.Name, FamilyOf(addr))
}

func (p *Parameters) inNoPool(addr netip.Addr) string {
	if len(p.entitled.usable) == 0 {
		return "there is no AddressPool that this Gateway may use"
	}
	return fmt.Sprintf("%s is in no AddressPool that this Gateway may use (%s)", addr, poolNames(p.entitled.usable))
}

// noneLeft says why there is no address of a family.
func (p *Parameters) noneLeft(family corev1.IPFamily) string {
	draws := p.entitled.draws
	switch {
	case !p.mayHave(family):
		return fmt.Sprintf("GatewayClass %s gives no %s addresses", p.class.Source.Name, family)
	case len(draws) == 0 && p.poolName() != "":
		return fmt.Sprintf("AddressPool %s does not admit namespace %s", p.poolName(), p.Key.Namespace)
	case len(draws) == 0:
		return fmt.Sprintf("no AddressPool with autoAssign that this Gateway may use admits namespace %s", p.Key.Namespace)
	}
	var reasons, full []string
	for _, pool := range draws {
		switch {
		case !pool.Gives():
			reasons = append(reasons, pool.givesNothing())
		case !pool.has(family):
			reasons = append(reasons, fmt.Sprintf("AddressPool %s has no %s addresses", pool.Name, family))
		default:
			full = append(full, pool.Name)
		}
	}
	if len(full) > 0 {
		return fmt.Sprintf("no %s address is left in AddressPool %s; add some to it", family, atMost(3, full))
	}
	return atMost(3, reasons)
}

// poolNames names pools; apart, those that give out nothing.
func poolNames(pools []*Pool) string {
	var giving, others []string
	for _, pool := range pools {
		if pool.Gives() {
			giving = append(giving, pool.Name)
		} else {
			others = append(others, pool.Name)
		}
	}
	switch {
	case len(others) == 0:
		return atMost(8, giving)
	case len(giving) == 0:
		return atMost(8, others) + ", which give out nothing at present"
	default:
		return fmt.Sprintf("%s; not at present: %s", atMost(8, giving), atMost(8, others))
	}
}

// retainedCondition: the Gateway has addresses that it would not get again.
func (g *Gateway) retainedCondition(found []retention) Condition {
	var lines []string
	for _, r := range found {
		line := g.Parameters.retained(r)
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	giveUp := "name another address in spec.addresses or create it anew"
	if g.LoadBalancer != nil {
		giveUp = g.LoadBalancer.giveUp(g.Parameters)
	}
	return newCondition(ConditionAddressRetained, metav1.ConditionTrue, found[0].reason,
		atMost(3, lines)+"; the Gateway keeps what it has; to give that up, "+giveUp)
}

func (p *Parameters) retained(r retention) string {
	switch {
	case r.text != "":
		return r.text
	case r.reason == ReasonInvalidParameters:
		return p.parametersInvalid()
	case r.pool == nil:
		return fmt.Sprintf("no AddressPool has %s", r.addr)
	case r.reason == ReasonPoolDeleting, !r.pool.Accepted:
		return fmt.Sprintf("%s is retained: %s", r.addr, r.pool.givesNothing())
	case r.reason == ReasonOutsidePool:
		return fmt.Sprintf("%s is no longer in AddressPool %s", r.addr, r.pool.Name)
	case !p.asksFor(r.addr):
		return fmt.Sprintf("%s is an %s address, which its parameters do not ask for", r.addr, FamilyOf(r.addr))
	default:
		return fmt.Sprintf("%s is of AddressPool %s, which this Gateway may not use any more", r.addr, r.pool.Name)
	}
}

// addressMode says where the addresses of a Gateway are from.
func addressMode(mode v1alpha1.AddressMode, origin string) Condition {
	return newCondition(ConditionAddressMode, metav1.ConditionTrue, mode, "its addresses are of "+origin)
}

func indexed(field string, index int) string { return fmt.Sprintf("%s[%d]", field, index) }

// names are the different values of a list, in its order.
func names[T ~string](values []T) []string {
	var all []string
	for _, value := range values {
		if !slices.Contains(all, string(value)) {
			all = append(all, string(value))
		}
	}
	return all
}
