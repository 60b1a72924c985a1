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
	if job := os.Getenv(Work); job != "" {
		if err := RunWorker(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	remove, err := temporary()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(waits) != "" {
		waitInTemporary()
		return
	}
	netns.Main(m, remove)
}
