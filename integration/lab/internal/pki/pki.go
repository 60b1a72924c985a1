// Package pki makes the keys and certificates of one lab: a CA, a serving
// certificate, client certificates for the components and people, and the key
// that signs service account tokens. All of it is thrown away with the lab.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const validity = 10 * 24 * time.Hour

// Authority signs certificates. It is not safe for concurrent use.
type Authority struct {
	dir    string
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	pem    []byte
	serial int64
}

// NewAuthority makes a CA and writes its certificate to DIR/ca.crt.
func NewAuthority(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Authority{dir: dir}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := a.template(pkix.Name{CommonName: "portway-lab"})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	a.pem = encode("CERTIFICATE", der)
	return a, os.WriteFile(a.path("ca.crt"), a.pem, 0o644)
}

// PEM is the certificate of the CA.
func (a *Authority) PEM() []byte { return a.pem }

// Serving writes DIR/NAME.crt and DIR/NAME.key for a server with these names and
// addresses.
func (a *Authority) Serving(name string, dns []string, addrs []netip.Addr) error {
	template := a.template(pkix.Name{CommonName: name})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames = dns
	for _, addr := range addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	cert, key, err := a.sign(template)
	if err != nil {
		return err
	}
	return a.write(name, cert, key)
}

func (a *Authority) write(name string, cert, key []byte) error {
	if err := os.WriteFile(a.path(name+".crt"), cert, 0o644); err != nil {
		return err
	}
	return os.WriteFile(a.path(name+".key"), key, 0o600)
}

// Client returns the certificate and the key of a user and its groups.
func (a *Authority) Client(user string, groups ...string) (cert, key []byte, err error) {
	template := a.template(pkix.Name{CommonName: user, Organization: groups})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.sign(template)
}

// ClientFiles writes the same to DIR/NAME.crt and DIR/NAME.key.
func (a *Authority) ClientFiles(name, user string, groups ...string) error {
	cert, key, err := a.Client(user, groups...)
	if err != nil {
		return err
	}
	return a.write(name, cert, key)
}

// SigningKey writes the key that signs service account tokens to DIR/NAME.key and
// its public half to DIR/NAME.pub.
func (a *Authority) SigningKey(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.path(name+".key"), encode("EC PRIVATE KEY", private), 0o600); err != nil {
		return err
	}
	return os.WriteFile(a.path(name+".pub"), encode("PUBLIC KEY", public), 0o644)
}

func (a *Authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *Authority) template(subject pkix.Name) *x509.Certificate {
	a.serial++
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.serial),
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func (a *Authority) sign(template *x509.Certificate) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate of %s: %w", template.Subject.CommonName, err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", keyDER), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
