// Package v1alpha1 holds the kinds of the API group portway.dev.
//
// +kubebuilder:object:generate=true
// +groupName=portway.dev
package v1alpha1
