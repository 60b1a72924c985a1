package cluster

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// kind is a kind of object that is read from manifests.
type kind struct {
	name string
	// versions that are read, the one statuses are written in first. All have the
	// fields of the Go type, which is that of the first.
	versions []string
	// cluster: objects have no namespace.
	cluster  bool
	empty    func() Object
	defaults func(Object)
	validate func(Object) field.ErrorList
}

const gatewayGroup = gatewayv1.GroupName

// kinds by name; no two of them share one.
var kinds = func() map[string]kind {
	gateway := func(versions ...string) []string {
		full := make([]string, 0, len(versions))
		for _, v := range versions {
			full = append(full, gatewayGroup+"/"+v)
		}
		return full
	}
	own := []string{v1alpha1.GroupVersion.String()}
	m := map[string]kind{}
	for _, k := range []kind{
		clusterKind("GatewayClass", gateway("v1", "v1beta1"), defaultGatewayClass, validateGatewayClass),
		namespacedKind("Gateway", gateway("v1", "v1beta1"), defaultGateway, validateGateway),
		namespacedKind("ListenerSet", gateway("v1"), defaultListenerSet, validateListenerSet),
		namespacedKind("TCPRoute", gateway("v1", "v1alpha2"), defaultTCPRoute, validateTCPRoute),
		namespacedKind("UDPRoute", gateway("v1", "v1alpha2"), defaultUDPRoute, validateUDPRoute),
		namespacedKind("ReferenceGrant", gateway("v1", "v1beta1", "v1alpha2"), func(*gatewayv1.ReferenceGrant) {}, validateReferenceGrant),
		clusterKind("AddressPool", own, defaultAddressPool, validateAddressPool),
		namespacedKind("GatewayParameters", own, func(*v1alpha1.GatewayParameters) {}, validateGatewayParameters),
		clusterKind("Namespace", []string{"v1"}, defaultNamespace, validateNamespace),
		namespacedKind("Service", []string{"v1"}, defaultService, validateService),
		namespacedKind("EndpointSlice", []string{"discovery.k8s.io/v1"}, defaultEndpointSlice, validateEndpointSlice),
	} {
		m[k.name] = k
	}
	return m
}()

func namespacedKind[T any, P pointer[T]](name string, versions []string, defaults func(P), validate func(P) field.ErrorList) kind {
	return kind{
		name:     name,
		versions: versions,
		empty:    func() Object { return P(new(T)) },
		defaults: func(o Object) {
			if p, ok := o.(P); ok {
				defaults(p)
			}
		},
		validate: func(o Object) field.ErrorList {
			if p, ok := o.(P); ok {
				return validate(p)
			}
			return nil
		},
	}
}

func clusterKind[T any, P pointer[T]](name string, versions []string, defaults func(P), validate func(P) field.ErrorList) kind {
	k := namespacedKind(name, versions, defaults, validate)
	k.cluster = true
	return k
}

// kindOf returns the name of an object's kind.
func kindOf(object Object) string {
	switch object.(type) {
	case *gatewayv1.GatewayClass:
		return "GatewayClass"
	case *gatewayv1.Gateway:
		return "Gateway"
	case *gatewayv1.ListenerSet:
		return "ListenerSet"
	case *gatewayv1.TCPRoute:
		return "TCPRoute"
	case *gatewayv1.UDPRoute:
		return "UDPRoute"
	case *gatewayv1.ReferenceGrant:
		return "ReferenceGrant"
	case *v1alpha1.AddressPool:
		return "AddressPool"
	case *v1alpha1.GatewayParameters:
		return "GatewayParameters"
	case *corev1.Namespace:
		return "Namespace"
	case *corev1.Service:
		return "Service"
	case *discoveryv1.EndpointSlice:
		return "EndpointSlice"
	default:
		return fmt.Sprintf("%T", object)
	}
}

// objectKey identifies an object of any kind.
type objectKey struct {
	kind string
	types.NamespacedName
}

func keyOf(object Object) objectKey {
	return objectKey{
		kind:           kindOf(object),
		NamespacedName: types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()},
	}
}

// String formats the key as messages show it: "Gateway default/web".
func (k objectKey) String() string {
	if k.Namespace == "" {
		return k.kind + " " + k.Name
	}
	return k.kind + " " + k.NamespacedName.String()
}

// passedOver are kinds that stand beside ours in many files and mean nothing to
// a node, by API group. They are no error, but everything else that we cannot
// read is: it may be one of ours with a typing mistake.
var passedOver = func() map[string]bool {
	m := map[string]bool{}
	for group, names := range map[string]string{
		"":                             "ConfigMap Secret Pod ServiceAccount PersistentVolumeClaim PersistentVolume ReplicationController LimitRange ResourceQuota Endpoints Event Node PodTemplate",
		"apps":                         "Deployment StatefulSet DaemonSet ReplicaSet ControllerRevision",
		"batch":                        "Job CronJob",
		"autoscaling":                  "HorizontalPodAutoscaler",
		"policy":                       "PodDisruptionBudget",
		"rbac.authorization.k8s.io":    "Role RoleBinding ClusterRole ClusterRoleBinding",
		"networking.k8s.io":            "Ingress IngressClass NetworkPolicy IPAddress ServiceCIDR",
		"apiextensions.k8s.io":         "CustomResourceDefinition",
		"admissionregistration.k8s.io": "ValidatingWebhookConfiguration MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding",
		"storage.k8s.io":               "StorageClass CSIDriver VolumeAttachment",
		"scheduling.k8s.io":            "PriorityClass",
		"coordination.k8s.io":          "Lease",
		"events.k8s.io":                "Event",
		"kustomize.config.k8s.io":      "Kustomization Component",
		gatewayGroup:                   "HTTPRoute GRPCRoute TLSRoute BackendTLSPolicy",
	} {
		for name := range strings.FieldsSeq(names) {
			m[group+"/"+name] = true
		}
	}
	return m
}()

// isPassedOver reports whether an object of this kind is skipped without an error.
func isPassedOver(apiVersion, name string) bool {
	group, _, grouped := strings.Cut(apiVersion, "/")
	if !grouped {
		group = ""
	}
	return passedOver[group+"/"+name]
}

// unknownKind says what is wrong with a kind that is neither read nor passed over.
func unknownKind(apiVersion, name string) string {
	if k, ok := kinds[name]; ok {
		return fmt.Sprintf("%s of %s is not read; use apiVersion %s", name, quoteOrNone(apiVersion), strings.Join(k.versions, " or "))
	}
	names := make([]string, 0, len(kinds))
	for known := range kinds {
		names = append(names, known)
	}
	slices.Sort(names)
	hint := ""
	if best := nearest(name, kinds); best != "" {
		hint = fmt.Sprintf("did you mean %q? ", best)
	}
	return fmt.Sprintf("unknown kind %q of %s; %sthe kinds that are read are %s and List",
		name, quoteOrNone(apiVersion), hint, strings.Join(names, ", "))
}

func quoteOrNone(s string) string {
	if s == "" {
		return "no apiVersion"
	}
	return fmt.Sprintf("apiVersion %q", s)
}
