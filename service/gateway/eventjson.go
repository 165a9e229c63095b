package gateway

import (
	"bytes"
	"encoding/base64"
	"io"
	"sync"

	probev1 "probed/gen/probe/v1"
)

// plain is how many bytes of a chunk are made text at once. A client that does not read holds the text of no more than that.
// Of groups of three bytes base64 makes four characters, and no padding in between.
const plain = 3 * 4 << 10

// texts are buffers for the text of plain bytes.
var texts = sync.Pool{New: func() any { return new([plain / 3 * 4]byte) }}

// dataKey stands before the bytes of a chunk in its JSON, of which they are the first field.
const dataKey = `"data":`

// writeEvent writes the JSON of an event, the bytes of a chunk piece by piece: as one text they would be held twice, and
// larger.
func writeEvent(w io.Writer, event *probev1.ExchangeResponse) error {
	data := event.GetChunk().GetData()
	if len(data) == 0 {
		text, err := marshal.Marshal(event)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	event.GetChunk().Data = nil
	text, err := marshal.Marshal(event)
	event.GetChunk().Data = data
	if err != nil {
		return err
	}
	// Between key and value there may be a space, at the encoder's pleasure.
	into := bytes.Index(text, []byte(dataKey)) + len(dataKey)
	into += bytes.IndexByte(text[into:], '"') + 1
	if _, err := w.Write(text[:into]); err != nil {
		return err
	}
	if err := writeBase64(w, data); err != nil {
		return err
	}
	_, err = w.Write(text[into:])
	return err
}

func writeBase64(w io.Writer, data []byte) error {
	text, _ := texts.Get().(*[plain / 3 * 4]byte)
	defer texts.Put(text)
	for len(data) > 0 {
		n := min(plain, len(data))
		base64.StdEncoding.Encode(text[:], data[:n])
		if _, err := w.Write(text[:base64.StdEncoding.EncodedLen(n)]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
