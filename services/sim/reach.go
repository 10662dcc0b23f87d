package sim

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// This file counts how often the simulation reaches states that few messages and fast readers
// do not lead to. TestSimulation fails if the seeds no longer reach them: then nothing is
// checked there any more.

// The states that are counted.
const (
	pagesReplayed = "pages-replayed" // a replay of more than one page came through
	slowReplay    = "slow-replay"    // one that took more than slowReplayTook
	gapBack       = "gap-back"       // a GAP told a member that came back that history begins later
	gapAhead      = "gap-ahead"      // a GAP told a member that its gateway missed more than history has
	catchUpPaused = "catch-up-pause" // a local room read a full page and will read another
	slowClosed    = "slow-closed"    // a slow reader was closed with 4508,
	slowBack      = "slow-back"      // and came back with after to the same room
	crowdRests    = "crowd-rests"    // a burst in a room that rests
	joinOverrun   = "join-overrun"   // entries were appended during a replay of pages
)

// mustReach says how many of 100 seeds, at least, must reach a state: about a quarter of those
// that do.
var mustReach = map[string]int{
	pagesReplayed: 15, slowReplay: 3, gapBack: 3, gapAhead: 1, catchUpPaused: 4, slowClosed: 5, slowBack: 3,
	crowdRests: 5, joinOverrun: 4,
}

const (
	onePage        = 64              // entries: replayPage of package gateway
	slowReplayTook = 3 * time.Second // most take some milliseconds
	restingFrom    = 20              // members on one gateway: manyMembers of package gateway
)

func (w *world) reach(state string) { w.count(w.reached, state) }

// replay is what a tab that came back was still to get when it joined.
type replay struct {
	after, upTo int64 // upTo is 0 if it is through, or there is none
	began       time.Time
}

func newReplay(j wire.Joined, after *wire.Position) replay {
	if after == nil || after.Epoch != j.Epoch || after.Seq >= j.Seq {
		return replay{}
	}
	return replay{after: after.Seq, upTo: j.Seq, began: time.Now()}
}

// received counts what a frame that a tab received tells about the gateway. newest is the seq
// of the log's newest entry.
func (w *world) received(t *tab, f wire.ServerFrame, newest int64) {
	joined := t.session.Joined().Seq
	if f.Type == wire.TypeGap {
		switch {
		case f.GapFrom > joined:
			w.reach(gapAhead)
		case t.replay.upTo > 0:
			w.reach(gapBack)
		}
	}
	if p := t.replay; p.upTo > 0 && t.session.Position().Seq >= p.upTo {
		t.replay.upTo = 0
		if p.upTo-p.after <= onePage {
			return
		}
		w.reach(pagesReplayed)
		if time.Since(p.began) > slowReplayTook {
			w.reach(slowReplay)
		}
		if newest > p.upTo {
			w.reach(joinOverrun)
		}
	}
}

// ended notes how a tab's session ended.
func (u *user) ended(t *tab, err error) {
	if end, ok := errors.AsType[*client.CloseError](err); ok && end.Code == wire.CloseSlowConsumer {
		u.mu.Lock()
		u.slow[t.room] = true
		u.mu.Unlock()
		u.w.reach(slowClosed)
	}
}

// ran looks for reads of a log among the scripts that processes run. A local room reads its log
// to the end, and gets at most a page.
func (w *world) ran(args []string) {
	if len(args) != 7 || args[0] != "3" || args[5] != "0" || !strings.HasSuffix(args[2], ":log") {
		return
	}
	id, _ := roomOfKey(args[1])
	first, err := strconv.Atoi(args[4])
	page, err2 := strconv.Atoi(args[6])
	if err != nil || err2 != nil {
		w.tell("script", "cannot tell what %v reads", args)
		return
	}
	if entries, bytes := w.log.ahead(id, first); bytes > page && entries <= wire.HistoryEntries {
		w.reach(catchUpPaused)
	}
}

// crowded reports whether a room rests on some gateway.
func (w *world) crowded(room int) bool {
	members := make([]int, w.cfg.Gateways)
	for _, u := range w.people {
		if t := u.tab(room); t != nil {
			members[t.node]++
		}
	}
	for _, n := range members {
		if n >= restingFrom {
			return true
		}
	}
	return false
}
