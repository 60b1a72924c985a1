package topology

import (
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// grants indexes what ReferenceGrants permit: routes of a kind in a namespace to
// refer to a Service in another namespace.
type grants map[grant]struct{}

type grant struct {
	kind    gatewayv1.Kind
	from    string
	service types.NamespacedName // an empty name: every Service of the namespace
}

func newGrants(sources map[types.NamespacedName]*gatewayv1.ReferenceGrant) grants {
	permitted := make(grants)
	for key, source := range sources {
		for _, from := range source.Spec.From {
			if from.Group != gatewayv1.GroupName {
				continue
			}
			for _, to := range source.Spec.To {
				if to.Group != "" || to.Kind != kindService {
					continue
				}
				service := types.NamespacedName{Namespace: key.Namespace}
				if to.Name != nil {
					if *to.Name == "" {
						continue // not a name, and not the absence of one either: grant nothing
					}
					service.Name = string(*to.Name)
				}
				permitted[grant{kind: from.Kind, from: string(from.Namespace), service: service}] = struct{}{}
			}
		}
	}
	return permitted
}

// permit: the route may refer to the Service. Within a namespace that needs no
// grant.
func (g grants) permit(route RouteKey, service types.NamespacedName) bool {
	if route.Namespace == service.Namespace {
		return true
	}
	one := grant{kind: route.Kind, from: route.Namespace, service: service}
	every := grant{kind: route.Kind, from: route.Namespace, service: types.NamespacedName{Namespace: service.Namespace}}
	_, permitsOne := g[one]
	_, permitsEvery := g[every]
	return permitsOne || permitsEvery
}
