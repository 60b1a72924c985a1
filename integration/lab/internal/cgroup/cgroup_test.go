package cgroup

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestParse: which trees a machine has, by what it says of a process.
func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, content string
		want          []tree
	}{
		{"version 2", "0::/user.slice\n", []tree{{}}},
		{
			"version 1 with an empty tree of version 2", "3:cpu,cpuacct:/\n2:memory:/a:b\n1:name=systemd:/\n0::/\n",
			[]tree{{"cpu,cpuacct", []string{"cpu", "cpuacct"}}, {"memory", []string{"memory"}}, {"systemd", []string{"name=systemd"}}},
		},
	} {
		got, err := parse(test.content)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(tree{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	for _, content := range []string{"", "memory\n"} {
		if got, err := parse(content); err == nil {
			t.Errorf("%q: %v is no error", content, got)
		}
	}
}
