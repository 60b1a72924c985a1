package controller

import (
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestEqualMissesNoField changes each field of each status, those that the API
// may get in the future included.
func TestEqualMissesNoField(t *testing.T) {
	checkEqual(t, equalGatewayClass)
	checkEqual(t, equalAddressPool)
	checkEqual(t, equalGateway)
	checkEqual(t, equalListenerSet)
	checkEqual(t, equalRoute)
}

func checkEqual[S any](t *testing.T, equal func(a, b *S) bool) {
	t.Helper()
	a, b := new(S), new(S)
	fill(reflect.ValueOf(a).Elem())
	fill(reflect.ValueOf(b).Elem())
	if !equal(a, b) {
		t.Errorf("%T is not equal to itself", a)
	}
	for path, leaf := range leaves(reflect.ValueOf(b).Elem(), reflect.TypeFor[S]().Name()) {
		old := reflect.New(leaf.Type()).Elem()
		old.Set(leaf)
		alter(leaf)
		if equal(a, b) {
			t.Errorf("%s does not matter", path)
		}
		leaf.Set(old)
	}
}

// fill gives every pointer and slice one element.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[metav1.Time]() {
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	default: // a leaf
	}
}

func leaves(v reflect.Value, path string) map[string]reflect.Value {
	found := map[string]reflect.Value{}
	switch v.Kind() {
	case reflect.Pointer:
		return leaves(v.Elem(), path)
	case reflect.Slice:
		return leaves(v.Index(0), path)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[metav1.Time]() {
			break
		}
		for i := range v.NumField() {
			for p, leaf := range leaves(v.Field(i), path+"."+v.Type().Field(i).Name) {
				found[p] = leaf
			}
		}
		return found
	default: // a leaf
	}
	found[path] = v
	return found
}

func alter(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("changed")
	case reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Struct:
		v.Set(reflect.ValueOf(metav1.NewTime(epoch)))
	default:
		panic("a field of a kind that this test does not know: " + v.Type().String())
	}
}

// TestNothingAndEmptyAreEqual, and so is what the API server fills in.
func TestNothingAndEmptyAreEqual(t *testing.T) {
	kind, group := gatewayv1.Kind("Gateway"), gatewayv1.Group(gatewayv1.GroupName)
	a := &gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{{ParentRef: gatewayv1.ParentReference{Name: "g"}}}}
	b := &gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{{
		ParentRef:  gatewayv1.ParentReference{Name: "g", Kind: &kind, Group: &group},
		Conditions: []metav1.Condition{},
	}}}
	if !equalRoute(a, b) {
		t.Error("defaults differ")
	}
	if !equalGateway(&gatewayv1.GatewayStatus{}, &gatewayv1.GatewayStatus{Addresses: []gatewayv1.GatewayStatusAddress{}, AttachedListenerSets: new(int32)}) {
		t.Error("empty differs")
	}
}
