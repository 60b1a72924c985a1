package flowtable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	tableName = "portway-flowtable"
	flowsName = "flows"
	chainName = "forward"
	// behind is where the chain stands: packets that others drop in forward are never there.
	behind = 100
	// maxDevices is how many interfaces go into one message; the kernel takes 256
	// (NFT_NETDEVICE_MAX).
	maxDevices = 200
)

// Config is what can be chosen.
type Config struct {
	// Mark is the one bit of the conntrack mark that our flows carry.
	Mark uint32
	// Interfaces are names, or patterns as of path.Match; of "*" the loopback interface is none.
	Interfaces []string
	// NetNS is a file descriptor of the network namespace; 0 is that of the caller.
	NetNS int
}

// Validate reports everything that is wrong with the Config.
func (c Config) Validate() error {
	var errs []error
	if len(c.Interfaces) == 0 {
		errs = append(errs, errors.New("no interfaces"))
	}
	for _, pattern := range c.Interfaces {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			errs = append(errs, fmt.Errorf("interface %q: must be a name or a pattern such as cali*", pattern))
		}
	}
	return errors.Join(errs...)
}

// UnableError says that this kernel has no flowtables.
type UnableError struct{ Err error }

// Error names what is missing.
func (e *UnableError) Error() string {
	return fmt.Sprintf("the kernel has no flowtables (CONFIG_NF_FLOW_TABLE_INET and CONFIG_NFT_FLOW_OFFLOAD, modules nf_flow_table_inet and nft_flow_offload): %v", e.Err)
}

func (e *UnableError) Unwrap() error { return e.Err }

// Table is ours in the kernel, or is to be. It is to be used by one goroutine at a time.
type Table struct {
	config Config
	table  *nftables.Table
	chain  *nftables.Chain
}

// New changes nothing.
func New(c Config) *Table {
	t := &Table{config: c, table: &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}}
	priority, accept := nftables.ChainPriority(behind), nftables.ChainPolicyAccept
	t.chain = &nftables.Chain{
		Name: chainName, Table: t.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: &priority, Policy: &accept,
	}
	return t
}

// Ensure makes the table, or adds interfaces to it that have appeared; changed says whether
// it did. Packets are never lost by it. An *UnableError says that the kernel cannot.
func (t *Table) Ensure() (changed bool, err error) {
	wanted, err := t.interfaces()
	if err != nil {
		return false, fmt.Errorf("flowtable: list interfaces: %w", err)
	}
	present, whole, err := t.present()
	if err != nil {
		return false, fmt.Errorf("flowtable: read table inet %s: %w", tableName, err)
	}
	if !whole && len(wanted) == 0 {
		return false, nil // none is there yet
	}
	missing := slices.DeleteFunc(wanted, func(name string) bool { return slices.Contains(present, name) })
	if whole && len(missing) == 0 {
		return false, nil
	}
	for first := !whole; first || len(missing) > 0; first = false {
		some := missing[:min(len(missing), maxDevices)]
		missing = missing[len(some):]
		if err := t.commit(first, some); err != nil {
			return true, err
		}
	}
	return true, nil
}

// commit makes all anew, or only adds interfaces.
func (t *Table) commit(anew bool, interfaces []string) error {
	conn, err := t.open()
	if err != nil {
		return err
	}
	if anew {
		conn.AddTable(t.table) // so that there is one to delete
		conn.DelTable(t.table)
		conn.AddTable(t.table)
	}
	conn.AddFlowtable(&nftables.Flowtable{Table: t.table, Name: flowsName, Devices: interfaces})
	if anew {
		conn.AddChain(t.chain)
		conn.AddRule(&nftables.Rule{
			Table: t.table, Chain: t.chain, Exprs: t.rule(),
			UserData: userdata.AppendString(nil, userdata.TypeComment, t.comment()),
		})
	}
	err = conn.Flush()
	if err == nil {
		return nil
	}
	var answer unix.Errno
	if anew && errors.As(err, &answer) && (answer == unix.ENOENT || answer == unix.EOPNOTSUPP) && !t.vanished(interfaces) {
		return &UnableError{answer}
	}
	return fmt.Errorf("flowtable: change table inet %s: %w", tableName, err)
}

// vanished reports whether an interface is no longer there, which the kernel answers as it
// does what it does not know.
func (t *Table) vanished(interfaces []string) bool {
	now, err := t.interfaces()
	return err != nil || slices.ContainsFunc(interfaces, func(name string) bool { return !slices.Contains(now, name) })
}

func (t *Table) rule() []expr.Any {
	bit := func(key expr.CtKey, bit uint32) []expr.Any {
		return []expr.Any{
			&expr.Ct{Key: key, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(bit), Xor: native(0)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)},
		}
	}
	return slices.Concat(
		bit(expr.CtKeySTATE, expr.CtStateBitESTABLISHED), bit(expr.CtKeyMARK, t.config.Mark),
		[]expr.Any{&expr.FlowOffload{Name: flowsName}},
	)
}

// comment is by what the rule is known again.
func (t *Table) comment() string {
	return fmt.Sprintf("established flows of listeners, with bit %#x", t.config.Mark)
}

// present returns the interfaces in the flowtable, and whether all else is as it should be.
func (t *Table) present() (interfaces []string, whole bool, err error) {
	conn, err := t.open()
	if err != nil {
		return nil, false, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil || !slices.ContainsFunc(tables, func(x *nftables.Table) bool { return x.Name == tableName }) {
		return nil, false, err
	}
	flowtables, err := conn.ListFlowtables(t.table)
	if err != nil {
		return nil, false, err
	}
	for _, f := range flowtables {
		if f.Name == flowsName {
			interfaces, whole = f.Devices, true
		}
	}
	rules, err := conn.GetRules(t.table, t.chain)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, false, err
	}
	if len(rules) != 1 {
		return nil, false, nil
	}
	if comment, _ := userdata.GetString(rules[0].UserData, userdata.TypeComment); comment != t.comment() {
		return nil, false, nil
	}
	// One that nobody asks for any more is got rid of by making all anew.
	if slices.ContainsFunc(interfaces, func(name string) bool { return !t.asked(name) }) {
		return nil, false, nil
	}
	return interfaces, whole, nil
}

// interfaces that are there and were asked for, in order.
func (t *Table) interfaces() ([]string, error) {
	handle, err := t.handle()
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, link := range links {
		if a := link.Attrs(); a.Flags&net.FlagLoopback == 0 && t.asked(a.Name) {
			names = append(names, a.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (t *Table) asked(name string) bool {
	return slices.ContainsFunc(t.config.Interfaces, func(pattern string) bool {
		match, _ := path.Match(pattern, name) // Validate has seen it
		return match
	})
}

func (t *Table) handle() (*netlink.Handle, error) {
	if t.config.NetNS == 0 {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	return netlink.NewHandleAt(netns.NsHandle(t.config.NetNS), unix.NETLINK_ROUTE)
}

func (t *Table) open() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(t.config.NetNS))
}

// Remove removes the table, if there is one. Its flows go the long way from then on. Where
// there is no nf_tables there is none.
func (t *Table) Remove() error {
	conn, err := t.open()
	if err != nil {
		return err
	}
	conn.DelTable(t.table)
	err = conn.Flush()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("flowtable: not permitted to change rules: CAP_NET_ADMIN is needed: %w", err)
	}
	return err
}

// Listing is the table with these interfaces, as nft lists it.
func (t *Table) Listing(interfaces ...string) string {
	return fmt.Sprintf(`table inet %s {
	flowtable %s {
		hook ingress priority filter
		devices = { %s }
	}

	chain %s {
		type filter hook forward priority %d; policy accept;
		ct state established ct mark & 0x%08[6]x != 0x00000000 flow add @%[2]s comment "%[7]s"
	}
}
`, tableName, flowsName, strings.Join(interfaces, ", "), chainName, behind, t.config.Mark, t.comment())
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
