package traffic

import (
	"testing"

	"github.com/portway-dev/portway/internal/netns"
)

func TestMain(m *testing.M) { netns.Main(m) }
