package gateway

import (
	"mime"
	"strconv"
	"strings"
)

// negotiate returns the offer that an Accept header likes best (RFC 9110, section 12.5.1), the first of equals, and
// false when it likes none. No header accepts everything.
func negotiate(accept []string, offers []string) (string, bool) {
	header := strings.TrimSpace(strings.Join(accept, ","))
	if header == "" {
		return offers[0], true
	}
	best, bestQuality := "", 0.0
	for _, offer := range offers {
		if quality := qualityOf(offer, header); quality > bestQuality {
			best, bestQuality = offer, quality
		}
	}
	return best, best != ""
}

// qualityOf is what the header's most specific range that fits says of an offer; 0: not acceptable.
func qualityOf(offer, header string) float64 {
	offerType, _, _ := strings.Cut(offer, "/")
	quality, specificity := 0.0, 0
	for part := range strings.SplitSeq(header, ",") {
		mediaRange, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		fits := 0
		switch mediaRange {
		case offer:
			fits = 3
		case offerType + "/*":
			fits = 2
		case "*/*":
			fits = 1
		}
		if fits <= specificity {
			continue
		}
		specificity, quality = fits, 1
		if text, ok := parameters["q"]; ok {
			q, err := strconv.ParseFloat(text, 64)
			if err != nil || q < 0 || q > 1 {
				q = 0
			}
			quality = q
		}
	}
	return quality
}
