package cluster

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestBadServicePolicies lists what a Service or its EndpointSlices can have wrong
// in how traffic is distributed, with the whole message.
func TestBadServicePolicies(t *testing.T) {
	const (
		onePort  = "  ports: [{port: 1}]\n"
		endpoint = sliceHead + "addressType: IPv4\nports: []\nendpoints:\n- addresses: [10.0.0.1]\n  hints:\n"
		misplace = "is for Services of type NodePort or LoadBalancer; set spec.type to one of them (the Gateway needs neither the node port nor the load balancer), or remove it"
	)
	tests := map[string]struct{ text, want string }{
		"affinity": {serviceHead + "  sessionAffinity: ClientIP\n" + onePort, ""},
		"unknown affinity": {
			serviceHead + "  sessionAffinity: Cookie\n" + onePort,
			"m.yaml:5: Service default/s: spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"None\", \"ClientIP\"",
		},
		"affinity timeout out of range": {
			serviceHead + "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: 86401\n" + onePort,
			"m.yaml:8: Service default/s: spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be 1 to 86400",
		},
		"affinity timeout without affinity": {serviceHead + "  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}\n" + onePort, ""},
		"Local":                             {serviceHead + "  type: NodePort\n  externalTrafficPolicy: Local\n" + onePort, ""},
		"Local with an external address":    {serviceHead + "  externalIPs: [192.0.2.1]\n  externalTrafficPolicy: Local\n" + onePort, ""},
		"Local without a way in": {
			serviceHead + "  externalTrafficPolicy: Local\n" + onePort,
			"m.yaml:5: Service default/s: spec.externalTrafficPolicy: Invalid value: \"Local\": " + misplace,
		},
		"Cluster without a way in": {
			serviceHead + "  type: ClusterIP\n  externalTrafficPolicy: Cluster\n" + onePort,
			"m.yaml:6: Service default/s: spec.externalTrafficPolicy: Invalid value: \"Cluster\": " + misplace,
		},
		"unknown external policy": {
			serviceHead + "  type: LoadBalancer\n  externalTrafficPolicy: Node\n" + onePort,
			"m.yaml:6: Service default/s: spec.externalTrafficPolicy: Unsupported value: \"Node\": supported values: \"Cluster\", \"Local\"",
		},
		"unknown internal policy": {
			serviceHead + "  internalTrafficPolicy: Node\n" + onePort,
			"m.yaml:5: Service default/s: spec.internalTrafficPolicy: Unsupported value: \"Node\": supported values: \"Cluster\", \"Local\"",
		},
		"hints": {endpoint + "    forZones: [{name: Zone_1}]\n    forNodes: [{name: n-1}]\n", ""},
		"zone that no label can have": {
			endpoint + "    forZones:\n    - name: zone 1\n",
			"m.yaml:10: EndpointSlice default/s-1: endpoints[0].hints.forZones[0].name: Invalid value: \"zone 1\": " +
				"a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
		},
		"nine zones": {
			endpoint + "    forZones:\n" + repeat(9, "    - name: z%d\n"),
			"m.yaml:9: EndpointSlice default/s-1: endpoints[0].hints.forZones: Too many: 9: at most 8 allowed; remove the others",
		},
		"nine nodes": {
			endpoint + "    forNodes:\n" + repeat(9, "    - name: n%d\n"),
			"m.yaml:9: EndpointSlice default/s-1: endpoints[0].hints.forNodes: Too many: 9: at most 8 allowed; remove the others",
		},
		"node without a name": {
			endpoint + "    forNodes:\n    - name: \"\"\n",
			"m.yaml:10: EndpointSlice default/s-1: endpoints[0].hints.forNodes[0].name: Required value: give a name",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := loadText(t, test.text)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestServicePolicyDefaults(t *testing.T) {
	for _, test := range []struct {
		spec     string
		external corev1.ServiceExternalTrafficPolicy
	}{
		{"  type: ClusterIP\n", ""},
		{"  type: NodePort\n", corev1.ServiceExternalTrafficPolicyCluster},
		{"  type: LoadBalancer\n", corev1.ServiceExternalTrafficPolicyCluster},
		{"  externalIPs: [192.0.2.1]\n", corev1.ServiceExternalTrafficPolicyCluster},
		{"  type: LoadBalancer\n  externalTrafficPolicy: Local\n", corev1.ServiceExternalTrafficPolicyLocal},
	} {
		objects, err := loadText(t, serviceHead+"  ports: [{port: 1}]\n"+test.spec)
		if err != nil {
			t.Fatal(err)
		}
		got := objects.Snapshot.Services[key("s")].Spec
		if got.ExternalTrafficPolicy != test.external || got.SessionAffinity != corev1.ServiceAffinityNone {
			t.Errorf("%q: externalTrafficPolicy %q, sessionAffinity %q", test.spec, got.ExternalTrafficPolicy, got.SessionAffinity)
		}
	}
}
