package traffic

import (
	"fmt"
	"os"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
)

func TestMain(m *testing.M) {
	if os.Getenv(ServerWork) != "" {
		fmt.Fprintln(os.Stderr, RunServer())
		os.Exit(1)
	}
	netns.Main(m)
}
