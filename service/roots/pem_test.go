package roots

import (
	"bytes"
	"encoding/pem"
	"os/exec"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// The file of images has each authority that is trusted without a condition, and no other.
func TestPEM(t *testing.T) {
	rest, err := exec.Command("go", "run", "pem.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			left++
			continue
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || !bytes.Equal(block.Bytes, root.Certificate) {
			t.Fatal("an authority is missing")
		}
	}
	if block, _ := pem.Decode(rest); block != nil {
		t.Error("there are more")
	}
	t.Logf("%d are left out", left)
}
