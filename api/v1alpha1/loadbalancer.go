package v1alpha1

// What the Service of a Gateway in mode LoadBalancer carries. Both labels together mark
// the Services that are ours: others are never touched.
const (
	// GatewayNamespaceLabel is the namespace of the Gateway.
	GatewayNamespaceLabel = GroupName + "/gateway-namespace"
	// GatewayNameLabel is the name of the Gateway; of a name of more than 63 characters
	// the first 52, and a hash of all.
	GatewayNameLabel = GroupName + "/gateway-name"
	// GatewayAnnotation is "namespace/name" of the Gateway, in full.
	GatewayAnnotation = GroupName + "/gateway"
	// GatewayUIDAnnotation is the UID of the Gateway.
	GatewayUIDAnnotation = GroupName + "/gateway-uid"
	// AppliedAnnotation is a hash of what was last applied. What is no longer wanted,
	// such as a label, can only be seen by it.
	AppliedAnnotation = GroupName + "/applied"
)
