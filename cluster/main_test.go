package cluster

import (
	"fmt"
	"os"
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestMain holds that nobody wrote to the metadata that objects share, see named.
func TestMain(m *testing.M) {
	code := m.Run()
	if !reflect.DeepEqual(*noMetadata, metav1.ObjectMeta{}) {
		fmt.Printf("somebody set metadata that objects share: %+v\n", *noMetadata)
		code = 1
	}
	os.Exit(code)
}
