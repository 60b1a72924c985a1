// Command echo is the server of the end-to-end tests. On TCP it says in one line
// who it is and whom it sees, then sends back what it gets; on UDP each answer is
// such a line followed by the datagram. The line:
//
//	pod=NAME ip=ADDRESS node=NODE local=ADDRESS:PORT peer=ADDRESS:PORT
//
// NAME, ADDRESS and NODE come from the environment: POD_NAME (else the host name),
// POD_IP and NODE_NAME. Arguments are the ports to serve, default 6000. With
// ECHO_HTTP=:PORT, GET / answers with the line and GET /healthz with 200, or 503
// while the file named by ECHO_UNREADY exists. SIGTERM ends it; with
// ECHO_LINGER=DURATION it goes on serving for so long first.
//
// In an image that is all there is, so it is a client, too: "echo ask tcp|udp
// ADDRESS:PORT" prints the line of such a server, "echo api PATH" what the API server
// says to the pod's service account.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(log.Lmicroseconds)
	ports := os.Args[1:]
	switch {
	case len(ports) == 3 && ports[0] == "ask":
		exit(ask(ports[1], ports[2]))
	case len(ports) == 2 && ports[0] == "api":
		exit(api(ports[1]))
	}
	if len(ports) == 0 {
		ports = []string{"6000"}
	}
	id := identity()
	for _, port := range ports {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			log.Fatal(err)
		}
		packets, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			log.Fatal(err)
		}
		go serveTCP(listener, id)
		go serveUDP(packets, id)
	}
	if addr := os.Getenv("ECHO_HTTP"); addr != "" {
		go func() { log.Fatal(serveHTTP(addr, id)) }()
	}
	log.Printf("%s serves ports %v", id, ports)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	log.Printf("stop: %v", <-stop)
	if linger, err := time.ParseDuration(os.Getenv("ECHO_LINGER")); err == nil {
		time.Sleep(linger)
	}
}

func exit(err error) {
	if err != nil {
		log.Fatal(err)
	}
	os.Exit(0)
}

func identity() string {
	name := os.Getenv("POD_NAME")
	if name == "" {
		name, _ = os.Hostname()
	}
	return fmt.Sprintf("pod=%s ip=%s node=%s", name, os.Getenv("POD_IP"), os.Getenv("NODE_NAME"))
}

func serveTCP(l net.Listener, id string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer func() { _ = conn.Close() }()
			if _, err := fmt.Fprintf(conn, "%s local=%s peer=%s\n", id, conn.LocalAddr(), conn.RemoteAddr()); err != nil {
				return
			}
			if _, err := io.Copy(conn, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				log.Printf("copy: %v", err)
			}
		}()
	}
}

func serveUDP(p net.PacketConn, id string) {
	buffer := make([]byte, 1<<16)
	for {
		n, peer, err := p.ReadFrom(buffer)
		if err != nil {
			log.Printf("receive: %v", err)
			continue
		}
		answer := fmt.Appendf(nil, "%s local=%s peer=%s\n", id, p.LocalAddr(), peer)
		if _, err := p.WriteTo(append(answer, buffer[:n]...), peer); err != nil {
			log.Printf("send: %v", err)
		}
	}
}

func serveHTTP(addr, id string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s peer=%s\n", id, r.RemoteAddr)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if file := os.Getenv("ECHO_UNREADY"); file != "" {
			if _, err := os.Stat(file); err == nil {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
	})
	return (&http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: time.Second}).ListenAndServe()
}
