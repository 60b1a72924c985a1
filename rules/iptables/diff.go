package iptables

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/portway-dev/portway/rules"
)

// target is what the kernel is to hold in one family.
type target struct {
	ordered  map[place]chain // that no State changes
	programs map[rules.FrontendKey]*program
	// exclusive are the addresses of the family that are refused where nobody serves.
	exclusive map[netip.Addr]bool
	// kept are Frontends that stay as they are, known or not. What others may have in
	// common with them stays, too.
	kept map[rules.FrontendKey]bool
}

// unit is what one Frontend's change takes, in the nat table. All of it must be
// committed at once.
type unit struct {
	key            rules.FrontendKey
	declare, lines []string
}

// section is lines for one table, which iptables-restore commits at once.
type section struct {
	table          string
	declare, lines []string
}

func (s *section) rewrite(name string, c chain) {
	s.declare = append(s.declare, declare(name))
	for _, rule := range c.rules {
		s.lines = append(s.lines, "-A "+name+" "+rule)
	}
}

// declare makes a chain or, with --noflush, empties the one there is.
func declare(name string) string { return ":" + name + " - [0:0]" }

// change is what makes an image a target.
type change struct {
	// base is what Frontends rely on, in the order of tableNames; it refuses nobody.
	base  []section
	units []unit
	jumps []jump // missing
	// tidy is what comes last: it refuses what nobody serves, and removes what nothing
	// leads to any more, nat before filter.
	tidy []section
}

func (c *change) empty() bool {
	return len(c.units)+len(c.jumps) == 0 && operations(c.base) == 0 && operations(c.tidy) == 0
}

// operations counts the lines that change something.
func operations(sections []section) (n int) {
	for _, s := range sections {
		n += len(s.declare) + len(s.lines)
	}
	return n
}

// changes compares.
func (t *target) changes(m image) *change {
	found, foreign := m.services()
	c := &change{base: []section{{table: filterTable}, {table: natTable}}, tidy: []section{{table: natTable}, {table: filterTable}}}
	chains := make(map[place]bool, len(m.chains)) // wanted
	c.ordered(t, m, chains)
	c.bags(t, m, chains)
	c.exclusives(t, m, chains)
	for key, old := range found {
		switch {
		case t.kept[key]:
			for at := range m.chains { // with all that its name begins the names of
				if at.table == natTable && strings.HasPrefix(at.chain, old.chain) {
					chains[at] = true
				}
			}
		case t.programs[key] == nil:
			c.units = append(c.units, unit{key: key, lines: []string{"-D " + old.bucket + " " + old.rule}})
		}
	}
	for key, now := range t.programs {
		at := place{natTable, now.bucket}
		if _, exists := m.chains[at]; !exists && !chains[at] {
			c.base[1].declare = append(c.base[1].declare, declare(at.chain))
		}
		chains[at] = true
		for _, ch := range now.chains {
			chains[place{natTable, ch.name}] = true
		}
		if u := unitOf(key, found[key].rule, now, m); len(u.lines) > 0 {
			c.units = append(c.units, u)
		}
	}
	slices.Sort(c.base[1].declare)
	for at := range m.chains { // rules of PORTWAY-SERVICES, which stay, may lead there
		chains[at] = chains[at] || len(t.kept) > 0 && strings.HasPrefix(at.chain, bucketPrefix)
	}
	for _, s := range foreign {
		if chains[place{natTable, s.bucket}] {
			c.tidy[0].lines = append(c.tidy[0].lines, "-D "+s.bucket+" "+s.rule)
		}
	}
	slices.SortFunc(c.units, func(a, b unit) int { return a.key.Compare(b.key) })
	c.links(m, chains)
	c.ways(m)
	c.sweep(m, chains)
	return c
}

func unitOf(key rules.FrontendKey, oldService string, now *program, m image) unit {
	s := section{}
	for _, ch := range now.chains {
		if !m.has(place{natTable, ch.name}, ch.chain) {
			s.rewrite(ch.name, ch.chain)
		}
	}
	u := unit{key: key, declare: s.declare, lines: s.lines}
	if oldService != now.service {
		u.lines = append(u.lines, "-A "+now.bucket+" "+now.service)
		if oldService != "" {
			u.lines = append(u.lines, "-D "+now.bucket+" "+oldService)
		}
	}
	return u
}

func (c *change) ordered(t *target, m image, chains map[place]bool) {
	for _, at := range slices.SortedFunc(maps.Keys(t.ordered), place.compare) {
		want := t.ordered[at]
		chains[at] = true
		if !m.has(at, want) {
			c.baseOf(at.table).rewrite(at.chain, want)
		}
	}
}

// bags compares the chains without an order, rule by rule, but for the buckets.
func (c *change) bags(t *target, m image, chains map[place]bool) {
	wanted := make(map[member]bool)
	for _, p := range t.programs {
		for _, id := range p.members {
			wanted[id] = true
		}
	}
	for _, at := range bags {
		chains[at] = true
		present, exists := m.chains[at]
		present = slices.DeleteFunc(slices.Clone(present), toNeighbourhood)
		base, tidy := c.baseOf(at.table), c.tidyOf(at.table)
		if !exists {
			base.declare = append(base.declare, declare(at.chain))
		}
		has := make(map[string]bool, len(present))
		for _, rule := range present {
			if has[rule] || (!wanted[member{at.chain, rule}] && len(t.kept) == 0) {
				tidy.lines = append(tidy.lines, "-D "+at.chain+" "+rule)
			}
			has[rule] = true
		}
		add := "-A "
		if at.chain == servicesChain { // the ways to exclusive addresses are behind all others
			add = "-I "
		}
		var missing []string
		for id := range wanted {
			if id.chain == at.chain && !has[id.rule] {
				missing = append(missing, add+at.chain+" "+id.rule)
			}
		}
		slices.Sort(missing)
		if add == "-I " {
			slices.Reverse(missing)
		}
		base.lines = append(base.lines, missing...)
	}
}

// links compares what leads into our chains. Whoever made a rule that leads to a chain
// that goes, it goes as well, as the kernel would keep the chain.
func (c *change) links(m image, chains map[place]bool) {
	for _, at := range slices.SortedFunc(maps.Keys(m.leads), place.compare) {
		for _, rule := range m.leads[at] {
			to := place{at.table, rule[strings.LastIndexByte(rule, ' ')+1:]}
			if tidy := c.tidyOf(at.table); !chains[to] {
				tidy.lines = append(tidy.lines, "-D "+at.chain+" "+rule)
			}
		}
	}
}

// ways compares the jumps of the built-in chains to ours. One that is not in front takes its
// place at once, so that no packet is without it.
func (c *change) ways(m image) {
	for _, j := range jumps {
		from := place{j.table, j.from}
		switch {
		case !slices.Contains(m.leads[from], j.rule()):
			c.jumps = append(c.jumps, j)
		case m.first[from] != j.rule():
			base := c.baseOf(j.table)
			for _, rule := range m.leads[from] {
				if rule == j.rule() {
					base.lines = append(base.lines, "-D "+j.from+" "+rule)
				}
			}
			base.lines = append(base.lines, "-I "+j.from+" 1 "+j.rule())
		}
	}
}

// sweep deletes chains that a former version or a Frontend leaves. Rules may lead from
// one to the other, hence all of them are emptied first.
func (c *change) sweep(m image, chains map[place]bool) {
	for _, at := range slices.SortedFunc(maps.Keys(m.chains), place.compare) {
		if !chains[at] {
			tidy := c.tidyOf(at.table)
			tidy.declare = append(tidy.declare, declare(at.chain))
		}
	}
	for i := range c.tidy {
		for _, line := range c.tidy[i].declare {
			name, _, _ := strings.Cut(line[1:], " ")
			c.tidy[i].lines = append(c.tidy[i].lines, "-X "+name)
		}
	}
}

func (p place) compare(o place) int {
	if p.table != o.table {
		return strings.Compare(p.table, o.table)
	}
	return strings.Compare(p.chain, o.chain)
}

func (c *change) baseOf(table string) *section { return of(c.base, table) }

func (c *change) tidyOf(table string) *section { return of(c.tidy, table) }

func of(sections []section, table string) *section {
	return &sections[slices.IndexFunc(sections, func(s section) bool { return s.table == table })]
}

// with returns the base and the units as sections, to be committed in this order.
func (c *change) with(units []unit) []section {
	out := slices.Clone(c.base)
	nat := of(out, natTable)
	nat.declare, nat.lines = slices.Clone(nat.declare), slices.Clone(nat.lines)
	for _, u := range units {
		nat.declare = append(nat.declare, u.declare...)
		nat.lines = append(nat.lines, u.lines...)
	}
	return out
}

// payload is the input of iptables-restore.
func payload(sections []section) []byte {
	var out []byte
	for _, s := range sections {
		if len(s.declare)+len(s.lines) == 0 {
			continue
		}
		out = append(out, "*"+s.table+"\n"...)
		for _, lines := range [...][]string{s.declare, s.lines} {
			for _, line := range lines {
				out = append(append(out, line...), '\n')
			}
		}
		out = append(out, "COMMIT\n"...)
	}
	return out
}

// remains returns what removes everything: nat first, so that nothing is marked to be
// refused when filter lets it pass.
func remains(m image) []section {
	c := &change{base: []section{{table: filterTable}, {table: natTable}}, tidy: []section{{table: natTable}, {table: filterTable}}}
	c.links(m, nil)
	c.sweep(m, nil)
	return c.tidy
}
