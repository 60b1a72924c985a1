package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

const (
	// AddressPoolFinalizer keeps an AddressPool that is being deleted until no Gateway
	// has an address of it any more.
	AddressPoolFinalizer = GroupName + "/address-pool-in-use"

	// ShareAddressLabel lets Gateways have the same address: those of one namespace
	// with the same value of this label. Their ports must differ.
	ShareAddressLabel = GroupName + "/share-address"
)

// AddressPool is a set of addresses that Gateways in mode Pool may have. Whoever
// creates one offers its addresses: nothing outside of all pools is ever given to
// a Gateway in this mode.
//
// Of two pools that overlap the younger is not accepted, so that a new pool changes
// nothing for those who use an old one. What a Gateway has it keeps: whatever becomes
// of the pool, the Gateway says so in its condition portway.dev/AddressRetained.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=portway,shortName=apool
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Auto",type=boolean,JSONPath=`.spec.autoAssign`,description="Gateways that name no pool get addresses of it"
// +kubebuilder:printcolumn:name="Announcement",type=string,JSONPath=`.spec.announcement.mode`
// +kubebuilder:printcolumn:name="Assigned",type=integer,JSONPath=`.status.assigned`,description="Addresses that Gateways have"
// +kubebuilder:printcolumn:name="Available",type=string,JSONPath=`.status.available`,description="Addresses that are left"
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec AddressPoolSpec `json:"spec"`
	// +optional
	Status AddressPoolStatus `json:"status,omitempty"`
}

// AddressPoolSpec is which addresses there are, who may have them and who answers
// for them.
type AddressPoolSpec struct {
	// Addresses are CIDRs, ranges and single addresses of both families:
	// "192.0.2.0/24", "192.0.2.10-192.0.2.20", "2001:db8::/120", "192.0.2.7". They may
	// overlap each other, but not those of other pools. Every address of a CIDR is
	// used, its first and last as well; see avoidBuggyIPs.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Addresses []AddressRange `json:"addresses"`

	// AvoidBuggyIPs leaves out the IPv4 addresses that end in .0 or .255: some old
	// equipment drops their packets.
	// +optional
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`

	// AutoAssign: Gateways that name no pool get addresses of this one. If false, a
	// Gateway gets one only if it or its class names the pool, or if it asks for an
	// address of it that its class permits.
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`

	// Namespaces of the Gateways that may have an address of this pool; all of them
	// if it is not given.
	// +optional
	Namespaces *PoolNamespaces `json:"namespaces,omitempty"`

	// Announcement is who tells the network where the addresses are; nobody if it is
	// not given.
	// +optional
	Announcement *Announcement `json:"announcement,omitempty"`
}

// AddressRange is a CIDR, a range "first-last" without spaces, or an address. The
// order of the two ends of an IPv6 range is checked by the controller only.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=91
// +kubebuilder:validation:XValidation:rule="self.contains('-') ? self.split('-').size() == 2 && self.split('-').all(a, isIP(a)) : isIP(self) || isCIDR(self)",message="must be a CIDR, a range or an address, such as 192.0.2.0/24, 192.0.2.10-192.0.2.20 or 2001:db8::1"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).masked() == cidr(self)",message="must be the first address of the network, such as 192.0.2.0/24, or an address without a prefix length"
// +kubebuilder:validation:XValidation:rule="!self.contains('-') || self.split('-').size() != 2 || !self.split('-').all(a, isIP(a)) || ip(self.split('-')[0]).family() == ip(self.split('-')[1]).family()",message="must begin and end with addresses of the same family"
// +kubebuilder:validation:XValidation:rule="!self.contains('-') || self.split('-').size() != 2 || !self.split('-').all(a, isIP(a) && ip(a).family() == 4) || int(self.split('-')[0].split('.')[0]) * 16777216 + int(self.split('-')[0].split('.')[1]) * 65536 + int(self.split('-')[0].split('.')[2]) * 256 + int(self.split('-')[0].split('.')[3]) <= int(self.split('-')[1].split('.')[0]) * 16777216 + int(self.split('-')[1].split('.')[1]) * 65536 + int(self.split('-')[1].split('.')[2]) * 256 + int(self.split('-')[1].split('.')[3])",message="must not end before it begins"
type AddressRange string

// NamespacesFrom says which namespaces are meant.
//
// +kubebuilder:validation:Enum=All;Selector
type NamespacesFrom string

const (
	// NamespacesFromAll means all namespaces.
	NamespacesFromAll NamespacesFrom = "All"
	// NamespacesFromSelector means those whose labels a selector matches.
	NamespacesFromSelector NamespacesFrom = "Selector"
)

// PoolNamespaces are the namespaces whose Gateways may have addresses of a pool.
//
// +kubebuilder:validation:XValidation:rule="self.from == 'Selector' || !has(self.selector)",message="must not be given unless from is Selector",fieldPath=".selector"
// +kubebuilder:validation:XValidation:rule="self.from != 'Selector' || has(self.selector)",message="from Selector needs a selector"
type PoolNamespaces struct {
	// From is All or Selector.
	// +optional
	// +kubebuilder:default=All
	From NamespacesFrom `json:"from,omitempty"`

	// Selector of the labels of namespaces, with from Selector.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// AnnouncementMode is how the network learns where addresses are.
//
// +kubebuilder:validation:Enum=None;Layer2
type AnnouncementMode string

const (
	// AnnouncementNone leaves it to others, such as a router with routes to the nodes
	// or a BGP speaker beside the agents. Every node serves every address of a pool.
	AnnouncementNone AnnouncementMode = "None"
	// AnnouncementLayer2 makes one node answer ARP and neighbour solicitations for
	// each address.
	AnnouncementLayer2 AnnouncementMode = "Layer2"
)

// Announcement is who answers for the addresses of a pool.
//
// +kubebuilder:validation:XValidation:rule="self.mode == 'Layer2' || !has(self.interfaces)",message="must not be given unless mode is Layer2",fieldPath=".interfaces"
// +kubebuilder:validation:XValidation:rule="self.mode == 'Layer2' || !has(self.nodeSelector)",message="must not be given unless mode is Layer2",fieldPath=".nodeSelector"
type Announcement struct {
	// Mode is None or Layer2.
	// +optional
	// +kubebuilder:default=None
	Mode AnnouncementMode `json:"mode,omitempty"`

	// Interfaces of the nodes at which they answer: names, or patterns with * and ?
	// such as "eth*". With mode Layer2; if it is not given, all interfaces that have
	// an address of the same network.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=15
	// +kubebuilder:validation:items:Pattern=`^[^/\s\[\]\\]+$`
	Interfaces []string `json:"interfaces,omitempty"`

	// NodeSelector of the labels of nodes that may answer. With mode Layer2; all nodes
	// if it is not given.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
}

// AddressPoolStatus is written by the controller. Its addresses and retained are what
// Gateways keep when spec.addresses no longer has it.
type AddressPoolStatus struct {
	// Conditions of the pool: Accepted is False with reason Invalid or Overlapping
	// while nothing is given out.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Addresses are spec.addresses as last accepted.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=91
	Addresses []string `json:"addresses,omitempty"`

	// Retained are the addresses that Gateways have although spec.addresses does not
	// have them any more, in the same notation. They are served as before.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16384
	// +kubebuilder:validation:items:MaxLength=91
	Retained []string `json:"retained,omitempty"`

	// Assigned is the number of addresses that Gateways have, retained ones included.
	// +optional
	Assigned int64 `json:"assigned"`

	// Available is the number of addresses that are left, as a text: there may be more
	// than a number holds.
	// +optional
	// +kubebuilder:validation:MaxLength=40
	Available string `json:"available,omitempty"`
}

// AddressPoolList is a list of AddressPools.
//
// +kubebuilder:object:root=true
type AddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AddressPool `json:"items"`
}
