// Command dns stands for the DNS server among the suite's base manifests. The
// suite's UDP test asks it for one name and takes any answer, so it says who asked,
// as the server of the suite does: an A or AAAA record, and the port as SRV.
// Arguments and configuration files are ignored.
package main

import (
	"log"
	"net"

	"github.com/miekg/dns"
)

const address = ":53"

func main() {
	dns.HandleFunc(".", whoAmI)
	log.Printf("serving UDP %s", address)
	log.Fatal((&dns.Server{Addr: address, Net: "udp"}).ListenAndServe())
}

func whoAmI(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(request)
	reply.Authoritative = true
	if peer, ok := w.RemoteAddr().(*net.UDPAddr); ok && len(request.Question) == 1 {
		name := request.Question[0].Name
		reply.Extra = append(reply.Extra, record(name, peer), &dns.SRV{
			Hdr:  dns.RR_Header{Name: "_udp." + name, Rrtype: dns.TypeSRV, Class: dns.ClassINET},
			Port: uint16(peer.Port), Target: ".",
		})
	}
	if err := w.WriteMsg(reply); err != nil {
		log.Printf("answer: %v", err)
	}
}

func record(name string, peer *net.UDPAddr) dns.RR {
	if v4 := peer.IP.To4(); v4 != nil {
		return &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: v4}
	}
	return &dns.AAAA{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET}, AAAA: peer.IP}
}
