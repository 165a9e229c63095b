//go:build e2e

package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	cr "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// certificate is the part of cert-manager's Certificate that the tests can issue. What else one asks for is an error, so that
// nothing is asked for in vain.
type certificate struct {
	SecretName  string          `json:"secretName"`
	CommonName  string          `json:"commonName"`
	DNSNames    []string        `json:"dnsNames"`
	IPAddresses []string        `json:"ipAddresses"`
	IsCA        bool            `json:"isCA"`
	Duration    metav1.Duration `json:"duration"`
	PrivateKey  struct {
		Algorithm      string `json:"algorithm"`
		Size           int    `json:"size"`
		RotationPolicy string `json:"rotationPolicy"`
	} `json:"privateKey"`
	Usages    []string `json:"usages"`
	IssuerRef struct {
		Group string `json:"group"`
		Kind  string `json:"kind"`
		Name  string `json:"name"`
	} `json:"issuerRef"`
}

// authority is the spec of an Issuer.
type authority struct {
	SelfSigned *struct{} `json:"selfSigned"`
	CA         *struct {
		SecretName string `json:"secretName"`
	} `json:"ca"`
}

// issueCertificates does cert-manager's work: each Certificate of the place becomes the Secret that it names, with what it
// asks for and nothing else.
func issueCertificates(ctx context.Context, p *place) error {
	var list unstructured.UnstructuredList
	list.SetAPIVersion("cert-manager.io/v1")
	list.SetKind("CertificateList")
	if err := p.resources.List(ctx, &list); err != nil {
		return err
	}
	if len(list.Items) == 0 {
		return fmt.Errorf("%s has no Certificate", p.namespace)
	}
	for waiting := list.Items; len(waiting) > 0; {
		var left []unstructured.Unstructured
		for _, item := range waiting {
			var spec certificate
			if err := decode(item, &spec); err != nil {
				return err
			}
			done, err := p.issue(ctx, spec)
			if err != nil {
				return fmt.Errorf("Certificate %s: %w", item.GetName(), err)
			}
			if !done {
				left = append(left, item)
			}
		}
		if len(left) == len(waiting) {
			return fmt.Errorf("an Issuer of %d Certificates, as %s, wants a Secret that nobody makes", len(left), left[0].GetName())
		}
		waiting = left
	}
	return nil
}

func decode(object unstructured.Unstructured, spec any) error {
	text, err := json.Marshal(object.Object["spec"])
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(text, spec); err != nil {
		return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return nil
}

// issue makes one Secret; false: that of its issuer is not there yet.
func (p *place) issue(ctx context.Context, spec certificate) (bool, error) {
	var issuer unstructured.Unstructured
	issuer.SetAPIVersion(spec.IssuerRef.Group + "/v1")
	issuer.SetKind(spec.IssuerRef.Kind)
	if err := p.resources.Get(ctx, spec.IssuerRef.Name, p.namespace, &issuer); err != nil {
		return false, err
	}
	var by authority
	if err := decode(issuer, &by); err != nil {
		return false, err
	}
	if spec.PrivateKey.Algorithm != "ECDSA" || spec.PrivateKey.Size != 256 {
		return false, fmt.Errorf("a key of %s %d", spec.PrivateKey.Algorithm, spec.PrivateKey.Size)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return false, err
	}
	template, err := spec.template()
	if err != nil {
		return false, err
	}
	parent, signer := template, crypto.Signer(key)
	var ca []byte // of a certificate that signs itself: itself
	if by.CA != nil {
		var secret corev1.Secret
		if err := p.resources.Get(ctx, by.CA.SecretName, p.namespace, &secret); err != nil {
			return false, cr.IgnoreNotFound(err)
		}
		ca = secret.Data[corev1.TLSCertKey]
		if parent, signer, err = parse(ca, secret.Data[corev1.TLSPrivateKeyKey]); err != nil {
			return false, err
		}
	} else if by.SelfSigned == nil {
		return false, fmt.Errorf("an Issuer that is neither selfSigned nor ca")
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return false, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return false, err
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if ca == nil {
		ca = chain
	}
	return true, p.resources.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: spec.SecretName, Namespace: p.namespace},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       chain,
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
			"ca.crt":                ca,
		},
	})
}

func (c certificate) template() (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	lasts := c.Duration.Duration
	if lasts == 0 {
		lasts = 90 * 24 * time.Hour
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: c.CommonName}, DNSNames: c.DNSNames,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lasts),
		BasicConstraintsValid: true, IsCA: c.IsCA,
	}
	for _, text := range c.IPAddresses {
		ip := net.ParseIP(text)
		if ip == nil {
			return nil, fmt.Errorf("%s is no address", text)
		}
		template.IPAddresses = append(template.IPAddresses, ip)
	}
	if len(c.Usages) == 0 {
		c.Usages = []string{"digital signature", "key encipherment"}
	}
	if c.IsCA {
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	for _, usage := range c.Usages {
		switch usage {
		case "digital signature":
			template.KeyUsage |= x509.KeyUsageDigitalSignature
		case "key encipherment":
			template.KeyUsage |= x509.KeyUsageKeyEncipherment
		case "server auth":
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		case "client auth":
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		default:
			return nil, fmt.Errorf("usage %q", usage)
		}
	}
	return template, nil
}

func parse(chain, key []byte) (*x509.Certificate, crypto.Signer, error) {
	first, _ := pem.Decode(chain)
	block, _ := pem.Decode(key)
	if first == nil || block == nil {
		return nil, nil, fmt.Errorf("the Secret of an authority without its certificate and key")
	}
	parent, err := x509.ParseCertificate(first.Bytes)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("a key of %T", parsed)
	}
	return parent, signer, nil
}
