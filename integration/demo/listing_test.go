package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestShorten(t *testing.T) {
	const table = `table inet portway {
	map listeners4 {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 192.0.2.1 . tcp . 8080 : goto random-1,
			     192.0.2.1 . tcp . 8090 comment "x" : goto random-12 }
	}

	map listeners6 {
		type ipv6_addr . inet_proto . inet_service : verdict
	}

	chain refuse {
		drop
	}

	chain random-1 {
		goto refuse
	}

	chain random-2 {
		goto refuse
	}

	chain flow-12 {
		goto refuse
	}

	chain random-12 {
		goto refuse
	}

	chain draw {
		goto refuse
	}
}
`
	const want = `table inet portway {
  map listeners4 {
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = { 192.0.2.1 . tcp . 8080 : goto random-1,
                 192.0.2.1 . tcp . 8090 comment "x" : goto random-12 }
  }

  chain refuse {
    drop
  }

  chain random-1 {
    goto refuse
  }

  chain random-12 {
    goto refuse
  }

  # Not in use and not shown: 1 sets and maps without elements,
  # 3 chains for other slot counts.
}
`
	if diff := cmp.Diff(want, shorten(table)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The last chain may be one that is left out, together with the closing brace.
func TestShortenClosesTheTable(t *testing.T) {
	const table = "table inet portway {\n\tchain refuse {\n\t\tdrop\n\t}\n\n\tchain random-2 {\n\t\tgoto refuse\n\t}\n}\n"
	const want = "table inet portway {\n  chain refuse {\n    drop\n  }\n\n" +
		"  # Not in use and not shown: 0 sets and maps without elements,\n  # 1 chains for other slot counts.\n}\n"
	if diff := cmp.Diff(want, shorten(table)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
