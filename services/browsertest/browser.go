// Package browsertest starts a Chromium for tests of code that browsers run.
package browsertest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

const timeout = 2 * time.Minute // a cold start of Chromium alone takes up to 10 s

// Start starts a headless Chromium with a profile of its own, which runs until the test
// ends. If there is no Chromium, the test fails: a skipped test would go unnoticed.
func Start(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx,
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), // containers have 64 MB there
		// A tab in the background must run like the one in front.
		chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.UserDataDir(t.TempDir()),
	)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) }) // waits for the end of Chromium, so that the profile can be removed
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("no browser, and this test is about one (`make deps` installs Chromium on Debian and Ubuntu): %v", err)
	}
	return ctx
}

// Tab opens an empty tab in a browser, which stays until the test ends. If a page in it
// throws an exception or logs an error, the test fails.
func Tab(browser context.Context, t testing.TB, name string) context.Context {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	if err := chromedp.Do(ctx); err != nil { // makes the tab; with a timeout in ctx, its end would close the tab
		t.Fatalf("%s's tab: %v", name, err)
	}
	messages := chromedp.Console(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			if m.IsException() || m.Type == chromedp.ConsoleError && m.Source == "" {
				t.Errorf("%s's page: %s", name, m.Text)
			}
		}
	})
	t.Cleanup(func() { cancel(); watching.Wait() })
	return ctx
}
