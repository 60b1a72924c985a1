package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/cluster"
)

// printTable prints statuses for people: one block per object, one line per
// condition, bad ones marked with "!" and with their message.
func printTable(out io.Writer, objects []cluster.Object) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, object := range objects {
		if _, err := fmt.Fprintf(w, "%s\n", title(object)); err != nil {
			return err
		}
		details := details(object)
		for list := range cluster.ConditionLists(object) {
			indent := "  "
			if list.Path != "" {
				if _, err := fmt.Fprintf(w, "  %s%s\n", list.Path, details[list.Path]); err != nil {
					return err
				}
				indent = "    "
			}
			for _, c := range list.Conditions {
				if _, err := fmt.Fprintln(w, conditionLine(indent, c)); err != nil {
					return err
				}
			}
		}
	}
	return w.Flush()
}

func conditionLine(indent string, c metav1.Condition) string {
	if c.Type == "Programmed" && c.Status == metav1.ConditionUnknown {
		return fmt.Sprintf("%s%s\tnot evaluated", indent, c.Type)
	}
	if !isBad(c) {
		return fmt.Sprintf("%s%s\t%s\t%s", indent, c.Type, c.Status, c.Reason)
	}
	return fmt.Sprintf("!%s%s\t%s\t%s\t%s", indent[1:], c.Type, c.Status, c.Reason, c.Message)
}

func title(object cluster.Object) string {
	name := object.GetName()
	if namespace := object.GetNamespace(); namespace != "" {
		name = namespace + "/" + name
	}
	text := object.GetObjectKind().GroupVersionKind().Kind + " " + name
	if gateway, ok := object.(*gatewayv1.Gateway); ok {
		addresses := make([]string, 0, len(gateway.Status.Addresses))
		for _, a := range gateway.Status.Addresses {
			addresses = append(addresses, a.Value)
		}
		text += " at " + strings.Join(addresses, ", ")
	}
	return text
}

// details describes the listeners of an object by the path of their conditions.
func details(object cluster.Object) map[string]string {
	details := map[string]string{}
	describe := func(name gatewayv1.SectionName, port gatewayv1.PortNumber, protocol gatewayv1.ProtocolType, routes int32) {
		details["listener "+string(name)] = fmt.Sprintf(" (%s %d, routes: %d)", protocol, port, routes)
	}
	switch o := object.(type) {
	case *gatewayv1.Gateway:
		for i, l := range o.Spec.Listeners {
			if i < len(o.Status.Listeners) {
				describe(l.Name, l.Port, l.Protocol, o.Status.Listeners[i].AttachedRoutes)
			}
		}
	case *gatewayv1.ListenerSet:
		for i, l := range o.Spec.Listeners {
			if i < len(o.Status.Listeners) {
				describe(l.Name, l.Port, l.Protocol, o.Status.Listeners[i].AttachedRoutes)
			}
		}
	}
	return details
}
