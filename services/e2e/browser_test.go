package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/anteroom-chat/anteroom/services/browsertest"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// screenshotEnv is the environment variable with a directory for pictures of the lobby and a
// room. Without it none are taken.
const screenshotEnv = "SCREENSHOT_DIR"

func TestTwoTabsOnTwoGatewaysTalkInARoom(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	browser := browsertest.Start(t)
	ann := openTab(browser, t, "Ann", v.Gateways[0].URL())
	bob := openTab(browser, t, "Bob", v.Gateways[2].URL())

	ann.run(
		chromedp.SendKeys(chromedp.CSS("#nickname"), "Ann"),
		chromedp.SendKeys(chromedp.CSS("#room-title"), "Two tabs"),
		chromedp.SetValue(chromedp.CSS("#room-capacity"), "4"),
		chromedp.SetValue(chromedp.CSS("#room-departure"), "0"),
		chromedp.Click(chromedp.CSS("#create")),
	)
	ann.wantState("open")
	roomID := ann.text(`document.getElementById("room-code").textContent`)

	bob.run(chromedp.SendKeys(chromedp.CSS("#nickname"), "Bob"))
	card := fmt.Sprintf(`#room-list [data-room-id=%q]`, roomID)
	bob.run(chromedp.WaitVisible(chromedp.CSS(card)))
	bob.want(card+" .seats", "1 of 4 seats occupied")
	bob.pictures("lobby")
	bob.run(chromedp.Click(chromedp.CSS(card + " .enter")))
	bob.wantState("open")
	for _, tab := range []*tab{ann, bob} {
		tab.want("#members", "Ann")
		tab.want("#members", "Bob")
	}

	ann.say("Hello, Bob")
	bob.want("#messages", "Hello, Bob")
	bob.say("Hello, Ann")
	ann.want("#messages", "Hello, Ann")
	for i := range 8 { // more than a telephone shows at once, with alternating authors
		ann.say(fmt.Sprint("question ", i))
		bob.say(fmt.Sprint("answer ", i))
	}
	ann.want("#messages", "answer 7")
	bob.pictures("room")
	bob.wantNoScrolling()

	// While the browser keeps a page for its Back button, the page has no seat.
	bob.persisted("pagehide")
	ann.want("#messages", "Bob left")
	v.wantOccupied(t, roomID, 1)
	ann.say("Where is Bob?")
	bob.persisted("pageshow")
	bob.wantState("open")
	bob.want("#messages", "Where is Bob?")
	bob.say("Back again")
	ann.want("#messages", "Back again")

	ann.run(chromedp.Click(chromedp.CSS("#leave")), chromedp.WaitVisible(chromedp.CSS("#create-form")))
	bob.want("#messages", "Ann left")
	bob.wantNot("#members", "Ann")
	v.wantOccupied(t, roomID, 1)
	bob.run(chromedp.Click(chromedp.CSS("#leave")), chromedp.WaitVisible(chromedp.CSS("#create-form")))
	eventually(t, soon, "the room goes with its last member", func() bool { return !v.roomExists(t, roomID) })
}

// tab is one tab of the browser.
type tab struct {
	t    *testing.T
	name string
	ctx  context.Context
}

// openTab opens a page.
func openTab(browser context.Context, t *testing.T, name, url string) *tab {
	t.Helper()
	tab := &tab{t, name, browsertest.Tab(browser, t, name)}
	tab.run(chromedp.Navigate(url+"/"), chromedp.WaitVisible(chromedp.CSS("#create-form")))
	return tab
}

func (tab *tab) run(steps ...chromedp.Action[chromedp.Void]) {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, 2*soon)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		tab.t.Fatalf("%s's tab: %v", tab.name, err)
	}
}

func (tab *tab) text(expression string) string {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, 2*soon)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](expression))
	if err != nil {
		tab.t.Fatalf("%s's tab: %v", tab.name, err)
	}
	return text
}

func (tab *tab) say(message string) {
	tab.t.Helper()
	tab.run(chromedp.SendKeys(chromedp.CSS("#message-input"), message), chromedp.Click(chromedp.CSS("#send")))
	tab.wantNone("#messages .pending") // the echo came
}

// persisted sends the page the event (pagehide or pageshow) that it gets when the browser
// keeps it, or shows it again.
func (tab *tab) persisted(event string) {
	tab.t.Helper()
	tab.run(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("dispatchEvent(new PageTransitionEvent(%q, { persisted: true }))", event)))
}

// wantState waits until the page shows this state of its connection.
func (tab *tab) wantState(state string) {
	tab.t.Helper()
	tab.until("state "+state, func() bool {
		return tab.text(`document.getElementById("state").dataset.state ?? ""`) == state
	})
}

func (tab *tab) want(selector, text string) {
	tab.t.Helper()
	tab.until(fmt.Sprintf("%s has %q", selector, text), func() bool { return strings.Contains(tab.textOf(selector), text) })
}

func (tab *tab) wantNot(selector, text string) {
	tab.t.Helper()
	tab.until(fmt.Sprintf("%s has no %q", selector, text), func() bool { return !strings.Contains(tab.textOf(selector), text) })
}

func (tab *tab) wantNone(selector string) {
	tab.t.Helper()
	tab.until("no "+selector, func() bool {
		return tab.text(fmt.Sprintf(`String(document.querySelectorAll(%q).length)`, selector)) == "0"
	})
}

// wantNoScrolling fails if the page is larger than its window. In a room only lists scroll.
func (tab *tab) wantNoScrolling() {
	tab.t.Helper()
	tab.run(chromedp.EmulateViewport(390, 844))
	if size := tab.text(`[document.documentElement.scrollWidth, document.documentElement.scrollHeight].join("×")`); size != "390×844" {
		tab.t.Errorf("in a window of 390×844, %s's page has %s", tab.name, size)
	}
	tab.run(chromedp.EmulateReset())
}

func (tab *tab) textOf(selector string) string {
	return tab.text(fmt.Sprintf(`document.querySelector(%q)?.textContent ?? ""`, selector))
}

func (tab *tab) until(what string, holds func() bool) {
	tab.t.Helper()
	eventually(tab.t, 2*soon, tab.name+"'s tab: "+what, holds)
}

// pictures takes pictures of the page in the sizes of a desktop and a telephone.
func (tab *tab) pictures(name string) {
	tab.t.Helper()
	dir := os.Getenv(screenshotEnv)
	if dir == "" {
		return
	}
	for width, height := range map[int64]int64{1280: 800, 390: 844} {
		tab.run(chromedp.EmulateViewport(width, height, chromedp.EmulateScale(2)), chromedp.Sleep(200*time.Millisecond))
		png, err := chromedp.Run(tab.ctx, chromedp.CaptureScreenshot())
		must(tab.t, err)
		must(tab.t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d.png", name, width)), png, 0o644))
	}
	tab.run(chromedp.EmulateReset())
}
