package exchange

import (
	"strings"
	"testing"
	"time"
)

// What a request of the largest size makes of references in a text costs no more than reading it some times over, however
// it is written. What is quadratic takes minutes.
func TestReferencesAreCheap(t *testing.T) {
	t.Parallel()
	const most = 1 << 20
	for name, text := range map[string]string{
		"opened only":      strings.Repeat("${", most/2),
		"closed at last":   strings.Repeat("${", most/2-1) + "}",
		"a long name":      "${" + strings.Repeat("x", most-3) + "}",
		"no names":         strings.Repeat("${}", most/3),
		"many, the same":   strings.Repeat("${0}", most/4),
		"many, too many":   strings.Repeat("${1}", most/4),
		"dollars":          strings.Repeat("$", most),
		"closed and again": strings.Repeat("${"+strings.Repeat("${", 500)+"}", most/1003),
	} {
		begin := time.Now()
		target, _ := streamTarget(t, "tcp", says("a"+strings.Repeat("x", 30_000)+"\n"))
		request := Request{Target: target, Timeout: long, Steps: []Step{regex(t, "a(x*)"), Send{Data: []byte(text), Expand: true}}}
		if err := request.Validate(); err == nil {
			trial{request: request}.run(t)
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
	}
}
