package layer2

import (
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// accept is how much of a frame is read; the longest message is an advertisement with
// options that nobody sends.
const accept = 512

// Offsets into a frame.
const (
	offARPFormat = 14 // hardware type and protocol
	offARPSizes  = 18
	offARPSender = 28
	offARPTarget = 38
	offNext      = 20 // next header of IPv6
	offHopLimit  = 21
	offICMPType  = 54 // and code
	offTarget    = 62
)

// arpFilter passes ARP requests for, and all ARP messages from, the addresses given.
func arpFilter(addresses []netip.Addr) []bpf.Instruction {
	list, few := blocks(addresses, maxBlocks)
	program := append(onlyToUs(),
		bpf.LoadAbsolute{Off: offARPFormat, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x00010800, SkipTrue: 1},
		bpf.RetConstant{},
		bpf.LoadAbsolute{Off: offARPSizes, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0604, SkipTrue: 1},
		bpf.RetConstant{},
	)
	for _, offset := range []uint32{offARPSender, offARPTarget} {
		program = append(program, bpf.LoadAbsolute{Off: offset, Size: 4})
		for _, b := range list {
			program = append(program, between(b)...)
		}
	}
	return end(program, few)
}

// ndpFilter passes neighbour solicitations and advertisements with one of the targets.
func ndpFilter(addresses []netip.Addr) []bpf.Instruction {
	list, few := blocks(addresses, maxBlocks)
	// Most packets are something else, so what tells is asked first.
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offNext, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 1},
		bpf.RetConstant{},
		bpf.LoadAbsolute{Off: offICMPType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 135 << 8, SkipTrue: 2}, // solicitation
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 136 << 8, SkipTrue: 1}, // advertisement
		bpf.RetConstant{},
		bpf.LoadAbsolute{Off: offHopLimit, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 255, SkipTrue: 1},
		bpf.RetConstant{},
	}
	program = append(program, onlyToUs()...)
	for _, b := range list {
		// What is behind a mismatch: the rest of the words, and the range.
		for i, word := range b.prefix {
			left := uint8(2*(len(b.prefix)-1-i) + 4)
			program = append(program,
				bpf.LoadAbsolute{Off: offTarget + uint32(4*i), Size: 4},
				bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: word, SkipTrue: left})
		}
		program = append(program, bpf.LoadAbsolute{Off: offTarget + 12, Size: 4})
		program = append(program, between(b)...)
	}
	return end(program, few)
}

// onlyToUs drops what is for other hosts or other VLANs, and what we send.
func onlyToUs() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: unix.PACKET_MULTICAST, SkipTrue: 1},
		bpf.RetConstant{},
	}
}

// between accepts what is loaded when it is in the block.
func between(b block) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: b.first, SkipFalse: 2},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: b.end, SkipTrue: 1},
		bpf.RetConstant{Val: accept},
	}
}

// end ends a program: what has matched nothing is dropped, if there was anything to
// match.
func end(program []bpf.Instruction, matches bool) []bpf.Instruction {
	if !matches {
		return append(program, bpf.RetConstant{Val: accept})
	}
	return append(program, bpf.RetConstant{})
}

func assemble(program []bpf.Instruction) []bpf.RawInstruction {
	raw, err := bpf.Assemble(program)
	if err != nil {
		panic(fmt.Sprintf("layer2: assemble filter: %v", err)) // only a mistake in this file
	}
	return raw
}
