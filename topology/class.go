package topology

import (
	"maps"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// supportedFeatures is what a class of ours publishes, in alphabetical order as
// the API demands. The conformance suite infers from it which tests to run, so
// it names only what is served and can be shown by it: no GatewayInfrastructure (what is
// created carries labels, but in mode LoadBalancer only and in another namespace) and no
// GatewayStaticAddresses (its test has HTTP listeners; TestCluster/static-addresses is ours).
var supportedFeatures = []features.FeatureName{
	features.SupportGateway,
	features.SupportGatewayAddressEmpty,
	features.SupportGatewayPort8080,
	features.SupportListenerSet,
	features.SupportReferenceGrant,
	features.SupportTCPRoute,
	features.SupportUDPRoute,
}

// gatewayClasses returns the classes that name our controller; others are not
// ours to report on.
func gatewayClasses(s Snapshot, c Config, all *choiceIndex, pools map[string]*Pool) map[string]*GatewayClass {
	classes := make(map[string]*GatewayClass)
	for name, source := range s.GatewayClasses {
		if source.Spec.ControllerName != c.ControllerName {
			continue
		}
		class := &GatewayClass{Source: source}
		class.terms, class.fault = classTerms(source, all, pools)
		class.Accepted = !class.fault.exists()
		class.Conditions = []Condition{class.acceptedCondition()}
		if s.CRDVersions != nil {
			class.Conditions = append(class.Conditions, supportedVersionCondition(untestedCRDs(s, c), c.BundleVersions))
		}
		classes[name] = class
	}
	return classes
}

// untestedCRDs names, in order, the CRDs whose bundle version is missing or not
// one this project is tested with. They are served all the same
// ("best effort", GatewayClass SupportedVersion).
func untestedCRDs(s Snapshot, c Config) []string {
	var untested []string
	for _, crd := range slices.Sorted(maps.Keys(s.CRDVersions)) {
		if version := s.CRDVersions[crd]; !slices.Contains(c.BundleVersions, version) {
			untested = append(untested, crdVersion(crd, version))
		}
	}
	return untested
}

func publishedFeatures() []gatewayv1.SupportedFeature {
	published := make([]gatewayv1.SupportedFeature, len(supportedFeatures))
	for i, name := range supportedFeatures {
		published[i].Name = gatewayv1.FeatureName(name)
	}
	return published
}
