package openapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// patience is for a browser on a busy machine.
const patience = 2 * time.Minute

// seen is what a browser did and complained about.
type seen struct {
	mu    sync.Mutex
	urls  []string
	wrong []string
}

func (s *seen) note(list *[]string, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*list = append(*list, text)
}

// The page renders every operation, does what a person does with it, and asks nobody but its own probed. No name resolves for the
// browser, and it complains about nothing.
func (w *world) page(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ctx, cancel = chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("/usr/bin/chromium"),
		chromedp.NoSandbox, // it does not start as root otherwise
		chromedp.WindowSize(1200, 1600),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
	)...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()

	var s seen
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t.Failed() {
			t.Logf("the browser asked for %v, and complained of %q", s.urls, s.wrong)
		}
	}()
	if err := chromedp.Do(ctx, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, network.Enable, network.EnableParams{})
		return err
	})); err != nil {
		t.Fatalf("chromium: %v (apt-get install chromium)", err)
	}
	if err := chromedp.Listen(ctx, func(event any) {
		if request, ok := event.(*network.EventRequestWillBeSent); ok {
			s.note(&s.urls, request.Request.URL)
		}
	}); err != nil {
		t.Fatal(err)
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		for message, err := range chromedp.Console(ctx) {
			if err != nil {
				return // it is over
			}
			// What a policy forbids is an error of the source security. Swagger UI warns of its own ways to write links.
			if message.Type == chromedp.ConsoleError || message.Type == chromedp.ConsoleException || message.Source != "" {
				s.note(&s.wrong, string(message.Type)+" "+message.Source+": "+message.Text+" "+message.URL)
			}
		}
	})
	b := browser{t, ctx}

	b.do(chromedp.Navigate(w.url + "/"))
	for at, operation := range w.operations() {
		id := "operations-" + operation.Tags[0] + "-" + operation.OperationID
		b.await(`document.getElementById("` + id + `")?.querySelector(".opblock-summary-path")?.textContent.replaceAll("\u200b", "") === "` + at[1] + `"`)
	}
	b.shot("page.png")

	// Nobody is known yet.
	const lookup = "operations-NameService-NameService_LookupPort"
	if status, text := b.execute(lookup); status != "401" || !strings.Contains(text, "ERROR_REASON_UNAUTHENTICATED") {
		t.Errorf("without a token: %s %s", status, text)
	}
	// A person types their token.
	b.do(
		chromedp.Click(chromedp.CSS(".auth-wrapper .authorize")),
		chromedp.SendKeys(chromedp.CSS(".auth-container input"), token),
		chromedp.Click(chromedp.CSS(".auth-btn-wrapper .authorize")),
		chromedp.Click(chromedp.CSS(".btn-done")),
	)
	if status, text := b.execute(lookup); status != "200" || !strings.Contains(text, `"name": "ssh"`) {
		t.Errorf("a lookup: %s %s", status, text)
	}
	b.shot("lookup.png")
	const exchange = "operations-ExchangeService-ExchangeService_Exchange"
	b.open(exchange)
	b.write(exchange, `{"target": "tcp://`+w.echo.String()+`", "text": "hello"}`)
	if status, text := b.execute(exchange); status != "200" || !strings.Contains(text, `aGVsbG8=`) || !strings.Contains(text, `"outcome"`) ||
		strings.Contains(text, "can't parse") {
		t.Errorf("an exchange: %s %s", status, text)
	}
	b.shot("exchange.png")

	// The token is nowhere but in the page.
	kept := b.text(`JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])`)
	if strings.Contains(kept, token) {
		t.Errorf("the browser keeps %s", kept)
	}
	b.do(chromedp.Reload())
	if status, _ := b.execute(lookup); status != "401" {
		t.Errorf("after a reload: %s", status)
	}

	// It is the same where a proxy puts something before its path.
	target, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(http.StripPrefix("/net/probed", httputil.NewSingleHostReverseProxy(target)))
	defer front.Close()
	b.do(chromedp.Navigate(front.URL + "/net/probed/"))
	if status, text := b.execute(lookup); status != "401" || !strings.Contains(text, "ERROR_REASON_UNAUTHENTICATED") {
		t.Errorf("behind a proxy: %s %s", status, text)
	}

	cancel()
	listening.Wait()
	s.mu.Lock()
	asked, complaints := slices.Clone(s.urls), slices.Clone(s.wrong)
	s.mu.Unlock()
	if len(asked) < 8 {
		t.Errorf("only %v were asked for", asked)
	}
	for _, asked := range asked {
		if !strings.HasPrefix(asked, w.url+"/") && !strings.HasPrefix(asked, front.URL+"/net/probed/") {
			t.Errorf("the page asked for %s", asked)
		}
	}
	for _, wrong := range complaints {
		// The lookups that are refused are told on the console as well.
		if !strings.Contains(wrong, "401 (Unauthorized)") {
			t.Errorf("the browser complains: %s", wrong)
		}
	}
}

// browser is a page in one, and its test.
type browser struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // it is the page
}

func (b browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.shot("failed.png")
		b.t.Fatal(err)
	}
}

// await waits until an expression holds.
func (b browser) await(expression string) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](expression)); err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
}

// text is what an expression says.
func (b browser) text(expression string) string {
	b.t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return text
}

// open unfolds an operation.
func (b browser) open(id string) {
	b.t.Helper()
	b.await(`document.getElementById("` + id + `") !== null`)
	if b.text(`document.getElementById("`+id+`").className.includes("is-open") ? "open" : ""`) == "" {
		b.do(chromedp.Click(chromedp.CSS("#" + id + " .opblock-summary-control")))
	}
	b.await(`document.querySelector("#` + id + ` .execute") !== null`)
}

// write fills in the body of a request, as typing does.
func (b browser) write(id, body string) {
	b.t.Helper()
	quoted, _ := json.Marshal(body)
	b.text(`(() => {
		const area = document.querySelector("#` + id + ` textarea.body-param__text");
		Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(area, ` + string(quoted) + `);
		area.dispatchEvent(new Event("input", {bubbles: true}));
		area.dispatchEvent(new Event("change", {bubbles: true}));
		return area.value;
	})()`)
}

// execute sends what stands in an operation, and returns the status and the text that the page shows for it.
func (b browser) execute(id string) (status, text string) {
	b.t.Helper()
	b.open(id)
	if b.text(`document.querySelector("#`+id+` .btn-clear") ? "before" : ""`) != "" {
		b.do(chromedp.Click(chromedp.CSS("#" + id + " .btn-clear")))
		b.await(`document.querySelector("#` + id + ` .live-responses-table") === null`)
	}
	b.do(chromedp.Click(chromedp.CSS("#" + id + " .execute")))
	b.await(`/^\d+/.test(document.querySelector("#` + id + ` .live-responses-table tbody .response-col_status")?.textContent ?? "")`)
	status = b.text(`document.querySelector("#` + id + ` .live-responses-table tbody .response-col_status").textContent`)
	text = b.text(`document.querySelector("#` + id + ` .live-responses-table tbody .response-col_description").textContent`)
	return strings.Fields(status)[0], text
}

// shot keeps a picture where OPENAPI_SHOTS says, for a person to look at.
func (b browser) shot(name string) {
	b.t.Helper()
	dir := os.Getenv("OPENAPI_SHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), picture, 0o600); err != nil {
		b.t.Fatal(err)
	}
}
