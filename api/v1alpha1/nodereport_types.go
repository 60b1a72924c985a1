package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ReportVersion is the version of the meaning of NodeReport.report. A reader that
// does not know a report's version treats the node as one that has proven nothing.
const ReportVersion = 1

// NodeReport is what the agent of one node has proven to be in that node's kernel.
// Its name is the node's, and the Node owns it. The agent writes it when it
// changes and at no other time; its heartbeat is a Lease of its own.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=portway,shortName=nrep
// +kubebuilder:printcolumn:name="Gateways",type=integer,JSONPath=`.report.gateways`,description="Gateways whose current configuration the kernel holds"
// +kubebuilder:printcolumn:name="Errors",type=integer,JSONPath=`.report.failing`,description="Gateways whose current configuration could not be programmed"
// +kubebuilder:printcolumn:name="Backend",type=string,JSONPath=`.report.backend`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.report.agentVersion`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeReport struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Report is what the agent says.
	// +required
	Report Report `json:"report"`
}

// Report is the content of a NodeReport. It stays below 128 KiB at 5000 Gateways, and what
// the addresses take that it announces.
type Report struct {
	// Version of the meaning of this report.
	// +required
	// +kubebuilder:validation:Minimum=1
	Version int32 `json:"version"`

	// AgentVersion is the version the agent was built as.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	AgentVersion string `json:"agentVersion,omitempty"`

	// Backend that programs the kernel: nftables or iptables.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Backend string `json:"backend,omitempty"`

	// BootID of the kernel that holds what is reported, as in the Node's
	// status.nodeInfo. A report from before a boot says nothing of the node: its
	// rules went with the kernel.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	BootID string `json:"bootID,omitempty"`

	// Addresses of the node at which the agent serves Gateways in node mode, IPv4
	// first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=45
	Addresses []string `json:"addresses,omitempty"`

	// Committed holds, in order, the digests of the configurations that the kernel
	// is proven to hold, one for each Gateway. A digest covers its Gateway's name,
	// so that it is true of that Gateway only. Atomic, because field management would
	// otherwise keep a second copy of every entry.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20000
	// +kubebuilder:validation:items:MaxLength=32
	Committed []string `json:"committed,omitempty"`

	// Gateways is the number of entries in Committed.
	// +optional
	Gateways int32 `json:"gateways"`

	// Errors tells why configurations could not be programmed, by Gateway in order;
	// the first 100 of them. Atomic for the reason that Committed is.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	Errors []GatewayError `json:"errors,omitempty"`

	// Failing is the number of Gateways with an error, also of those that Errors has
	// no room for.
	// +optional
	Failing int32 `json:"failing"`

	// Announcing are the addresses of pools that this node answers for on its network
	// (announcement Layer2), by when it began to.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2048
	Announcing []Announced `json:"announcing,omitempty"`

	// Findings about the node that an operator should know, such as a foreign rule
	// that drops our flows.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Findings []Finding `json:"findings,omitempty"`
}

// Announced are addresses that a node answers for.
type Announced struct {
	// Since when.
	// +required
	Since metav1.Time `json:"since"`

	// Addresses in order, IPv4 first.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16384
	// +kubebuilder:validation:items:MaxLength=45
	Addresses []string `json:"addresses"`
}

// GatewayError is why a Gateway's current configuration is not in the kernel.
type GatewayError struct {
	// Gateway as "namespace/name".
	// +required
	// +kubebuilder:validation:MaxLength=317
	Gateway string `json:"gateway"`

	// Message is the error.
	// +required
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message"`
}

// Finding is something about the node that affects what it can serve.
type Finding struct {
	// Reason in CamelCase, for programs.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason"`

	// Message for people: what it is and the cure.
	// +required
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message"`

	// Gateway that is concerned, as "namespace/name"; empty: all that the node serves.
	// +optional
	// +kubebuilder:validation:MaxLength=317
	Gateway string `json:"gateway,omitempty"`

	// Listener of the Gateway that is concerned: its name, or
	// "namespace/name/listener" for one of a ListenerSet.
	// +optional
	// +kubebuilder:validation:MaxLength=571
	Listener string `json:"listener,omitempty"`
}

// Reasons of Findings that statuses are made from. There are others, for people.
const (
	// FindingPacketForwarding: the host does not pass on packets.
	FindingPacketForwarding = "PacketForwarding"
	// FindingFirewallDrops: rules of others drop our flows.
	FindingFirewallDrops = "FirewallDrops"
	// FindingPortInUse: a process of the host listens at a listener's address and port.
	FindingPortInUse = "PortInUse"
	// FindingHostPort: another program's rules translate a listener's port: a pod's
	// hostPort, or a port that a container engine publishes.
	FindingHostPort = "HostPort"
	// FindingAddressConflict: a stranger on the network has an address of a Gateway.
	FindingAddressConflict = "AddressConflict"
)

// NodeReportList is a list of NodeReports.
//
// +kubebuilder:object:root=true
type NodeReportList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeReport `json:"items"`
}
