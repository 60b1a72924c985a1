package conformance

// Skip is a test of the suite that is left out.
type Skip struct {
	Test   string
	Reason string
	// Instead names the tests of package l4, or of the suite, that assert what it
	// would assert of a TCP or UDP listener.
	Instead []string
}

const (
	needsKind   = "its code demands supportedKinds HTTPRoute of the listener"
	needsSecret = "it is about Secrets of HTTPS listeners, which are not served and never read"
)

// Skips are the tests that an implementation without HTTP and TLS cannot pass, by
// name in alphabetical order.
var Skips = []Skip{
	{Test: "GatewayInvalidRouteKind", Reason: needsKind, Instead: []string{"L4GatewayInvalidRouteKind"}},
	{Test: "GatewayInvalidTLSConfiguration", Reason: needsSecret, Instead: []string{"L4GatewayUnsupportedProtocol"}},
	{Test: "GatewayListenerUnsupportedProtocol", Reason: needsKind, Instead: []string{"L4GatewayUnsupportedProtocol"}},
	{Test: "GatewayModifyListeners", Reason: "its code adds an HTTP listener and demands that an HTTPRoute attaches", Instead: []string{"L4GatewayModifyListeners"}},
	{Test: "GatewaySecretInvalidReferenceGrant", Reason: needsSecret, Instead: []string{"L4ReferenceGrants"}},
	{Test: "GatewaySecretMissingReferenceGrant", Reason: needsSecret, Instead: []string{"L4ReferenceGrants"}},
	{Test: "GatewaySecretReferenceGrantAllInNamespace", Reason: needsSecret, Instead: []string{"L4ReferenceGrants"}},
	{Test: "GatewaySecretReferenceGrantSpecific", Reason: needsSecret, Instead: []string{"L4ReferenceGrants"}},
	{
		Test:   "ListenerSetHostnameConflict",
		Reason: "its code demands reason HostnameConflict; TCP and UDP listeners have no host names, so that two of one port are a ProtocolConflict",
		Instead: []string{
			"ListenerSetProtocolConflict", "L4ListenerSetPorts",
		},
	},
	{Test: "ListenerSetReferenceGrant", Reason: needsSecret, Instead: []string{"L4ListenerSetGrants"}},
}
