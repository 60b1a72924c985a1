package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// GatewayParameters say where Gateways are reached. A GatewayClass refers to them
// with spec.parametersRef and means all its Gateways; a Gateway refers to those of
// its own namespace with spec.infrastructure.parametersRef and chooses with them among
// what its class permits. What a Gateway's own parameters leave out is as its class
// says.
//
// While parameters are missing or invalid, Gateways that have addresses keep them and
// are served as before; others wait.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=gatewayparameters,singular=gatewayparameters,categories=portway,shortName=gwparams
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Families",type=string,JSONPath=`.spec.ipFamilies`
// +kubebuilder:printcolumn:name="Permitted",type=string,JSONPath=`.spec.permitted.modes`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type GatewayParameters struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec GatewayParametersSpec `json:"spec"`
}

// AddressMode is where the addresses of a Gateway come from.
//
// +kubebuilder:validation:Enum=Node;Pool;LoadBalancer
type AddressMode string

const (
	// AddressModeNode means that a Gateway is reached at the addresses of the nodes and
	// shares their ports with all others in this mode.
	AddressModeNode AddressMode = "Node"
	// AddressModePool means that a Gateway has addresses of its own, of an AddressPool.
	AddressModePool AddressMode = "Pool"
	// AddressModeLoadBalancer means that a Gateway has the addresses of a Service of
	// type LoadBalancer that is made for it, in the namespace of the agents.
	AddressModeLoadBalancer AddressMode = "LoadBalancer"
)

// NodeAddressType is which of their addresses nodes are reached at.
//
// +kubebuilder:validation:Enum=Internal;External
type NodeAddressType string

const (
	// NodeAddressInternal are a Node's addresses of type InternalIP.
	NodeAddressInternal NodeAddressType = "Internal"
	// NodeAddressExternal are a Node's addresses of type ExternalIP.
	NodeAddressExternal NodeAddressType = "External"
)

// GatewayParametersSpec is what a class demands, or a Gateway asks for.
//
// +kubebuilder:validation:XValidation:rule="!has(self.pool) || !has(self.mode) || self.mode == 'Pool'",message="must not be given unless mode is Pool",fieldPath=".pool"
// +kubebuilder:validation:XValidation:rule="!has(self.nodeSelector) || !has(self.mode) || self.mode == 'Node'",message="must not be given unless mode is Node",fieldPath=".nodeSelector"
// +kubebuilder:validation:XValidation:rule="!has(self.nodeAddressType) || !has(self.mode) || self.mode == 'Node'",message="must not be given unless mode is Node",fieldPath=".nodeAddressType"
// +kubebuilder:validation:XValidation:rule="!has(self.loadBalancerClass) || !has(self.mode) || self.mode == 'LoadBalancer'",message="must not be given unless mode is LoadBalancer",fieldPath=".loadBalancerClass"
type GatewayParametersSpec struct {
	// Mode is Node, Pool or LoadBalancer. If it is not given, that is Node in the
	// parameters of a class, and the class's mode in those of a Gateway.
	//
	// A Gateway whose spec.addresses are all of the other of the modes Node and Pool
	// is in that one, if its class permits it.
	// +optional
	Mode AddressMode `json:"mode,omitempty"`

	// Pool is the AddressPool that addresses are taken from, with mode Pool. If it is
	// not given: any pool with autoAssign that admits the Gateway's namespace, in the
	// order of their names.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Pool string `json:"pool,omitempty"`

	// IPFamilies are those a Gateway has addresses of: with mode Pool one of each, with
	// mode Node all that the nodes have, with mode LoadBalancer those of the Service. If it
	// is not given, a Gateway in mode Pool has one address, IPv4 where there are any, one
	// in mode Node those of both families, and a Service is as the cluster makes it.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=IPv4;IPv6
	IPFamilies []corev1.IPFamily `json:"ipFamilies,omitempty"`

	// NodeSelector of the labels of nodes whose addresses are published, with mode Node.
	// Other nodes serve the Gateway as well. Those of a class and of a Gateway have to
	// match both.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// NodeAddressType is Internal or External, with mode Node: which addresses of a
	// node are published. If it is not given, that is for the controller to say
	// (--node-address-type). It is the class's to choose.
	// +optional
	NodeAddressType NodeAddressType `json:"nodeAddressType,omitempty"`

	// LoadBalancerClass of the Service, with mode LoadBalancer. It is the class's to
	// choose. A Service that is there keeps the one it has.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	LoadBalancerClass string `json:"loadBalancerClass,omitempty"`

	// Permitted is what a Gateway's own parameters may choose beyond what its class
	// says. It is read from the parameters of a class only.
	// +optional
	Permitted *PermittedParameters `json:"permitted,omitempty"`
}

// PermittedParameters are choices that a class leaves to its Gateways. Whatever is
// left out permits nothing beyond the class's own parameters.
type PermittedParameters struct {
	// Modes a Gateway may choose besides the class's.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=3
	Modes []AddressMode `json:"modes,omitempty"`

	// Pools a Gateway may name, and ask for addresses of, besides the class's pool
	// or, if the class names none, those with autoAssign. Where a class of another
	// mode permits mode Pool, these are all pools that its Gateways may use; without
	// any, those with autoAssign.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Pools []string `json:"pools,omitempty"`

	// IPFamilies a Gateway may choose besides the class's.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=IPv4;IPv6
	IPFamilies []corev1.IPFamily `json:"ipFamilies,omitempty"`

	// NodeSelector: a Gateway may choose among the nodes that the class's nodeSelector
	// matches.
	// +optional
	NodeSelector bool `json:"nodeSelector,omitempty"`
}

// GatewayParametersList is a list of GatewayParameters.
//
// +kubebuilder:object:root=true
type GatewayParametersList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GatewayParameters `json:"items"`
}
