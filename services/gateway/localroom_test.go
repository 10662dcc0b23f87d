package gateway

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestHoleIsReadFromTheLog(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		events := st.appendMany(10)
		st.publish(events[0], events[1], events[5], events[7])
		st.publish(events[8:]...)
		st.got(m, span("E1", 1, 10)...)
		if st.reads == 0 || st.reads > 2 {
			t.Fatalf("%d reads", st.reads)
		}
	})
}

func TestDoublesAreGivenOnce(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		events := st.appendMany(4)
		st.publish(events...)
		st.publish(events...)
		st.publish(events[3], events[0])
		st.got(m, span("E1", 1, 4)...)
		if st.reads != 0 {
			t.Fatalf("%d reads", st.reads)
		}
	})
}

func TestWhatIsGoneFromTheLogIsAGap(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		events := st.appendMany(10)
		st.set(func() { st.kept = 3 })
		st.publish(events[0], events[9])
		st.got(m, "E1/1", string(wire.GapFrame(2, 7)), "E1/8", "E1/9", "E1/10")
		more := st.appendMany(2)
		st.publish(more...)
		st.got(m, append([]string{"E1/1", string(wire.GapFrame(2, 7))}, span("E1", 8, 12)...)...)
	})
}

func TestAGapBeginsBehindWhatAMemberHas(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		first := st.join()
		st.appendMany(5) // not published yet
		m := st.join()   // JOINED says 5
		events := st.appendMany(5)
		st.set(func() { st.kept = 3 })
		st.publish(events[4])
		st.got(first, string(wire.GapFrame(1, 7)), "E1/8", "E1/9", "E1/10")
		st.got(m, string(wire.GapFrame(6, 7)), "E1/8", "E1/9", "E1/10")
	})
}

func TestWhatIsMissingComesInPages(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.set(func() { st.page, st.kept = 3, 16 })
		events := st.appendMany(20)
		st.publish(events[17], events[18]) // 16 entries are kept, and these two wait
		st.got(m, append([]string{string(wire.GapFrame(1, 4))}, span("E1", 5, 20)...)...)
		if st.reads < 6 || st.reads > 7 {
			t.Fatalf("%d reads", st.reads)
		}
	})
}

func TestReadThatFailsIsRepeated(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.set(func() { st.fault = io.ErrUnexpectedEOF })
		st.publish(st.appendMany(3)[2])
		st.step()
		time.Sleep(time.Second)
		st.step()
		st.set(func() { st.fault = nil })
		time.Sleep(readRetry)
		st.got(m, span("E1", 1, 3)...)
	})
}

func TestReadThatFailsAgainAndAgainIsToldOnce(t *testing.T) {
	var told bytes.Buffer
	defer func(logger *slog.Logger, out io.Writer, flags int) { // slog.SetDefault redirects package log too, and does not undo that
		slog.SetDefault(logger)
		log.SetOutput(out)
		log.SetFlags(flags)
	}(slog.Default(), log.Writer(), log.Flags())
	slog.SetDefault(slog.New(slog.NewTextHandler(&told, nil)))
	onStage(t, func(t *testing.T, st *stage) {
		st.join()
		for outage := range 2 {
			st.set(func() { st.fault = io.ErrUnexpectedEOF })
			st.room().read()
			for range 10 {
				st.step()
				time.Sleep(readRetry)
			}
			if n := strings.Count(told.String(), "cannot read"); n != outage+1 {
				t.Errorf("%d outages were told %d times", outage+1, n)
			}
			st.set(func() { st.fault = nil })
			st.step()
			time.Sleep(readRetry)
			st.step()
		}
	})
}

func TestWhatComesDuringAReadWaitsForIt(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.hold()
		st.publish(st.appendMany(3)[2])
		st.step()
		st.publish(st.appendMany(2)...)
		st.got(m)
		st.release()
		st.got(m, span("E1", 1, 5)...)
	})
}

func TestMoreThanIsRememberedDuringAReadIsReadAgain(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.hold()
		st.publish(st.appendMany(3)[2])
		st.step()
		st.publish(st.appendMany(maxTail + 100)...)
		st.release()
		st.step()
		if got := m.tape.frames(); len(got) != maxTail+103 || got[len(got)-1] != fmt.Sprintf("E1/%d", maxTail+103) {
			t.Fatalf("got %d frames", len(got))
		}
	})
}

func TestJoinerGetsWhatWasGivenSinceItsConfirmation(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.publish(st.appendMany(2)...)
		m := st.joining() // gets seq 3 and later
		st.publish(st.appendMany(3)...)
		st.step()
		st.publish(st.append()) // in the same batch as the join
		st.joined(m)
		st.publish(st.append())
		st.got(m, span("E1", 3, 7)...)
		st.got(old, span("E1", 1, 7)...)
	})
}

func TestJoinerAheadOfTheSubscriptionSkipsWhatItHas(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		events := st.appendMany(4)
		st.publish(events[0])
		m := st.join() // 2 to 4 are not published yet
		st.publish(events[1:]...)
		st.publish(st.append())
		st.got(m, "E1/5")
		st.got(old, span("E1", 1, 5)...)
	})
}

func TestFirstMemberGetsWhatCameWhileItJoined(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.appendMany(3)
		m := st.joining()
		st.publish(st.appendMany(2)...)
		st.joined(m)
		st.got(m, "E1/4", "E1/5")
	})
}

func TestJoinerThatBecomesFirstGetsNothingTwice(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		m := st.joining()
		st.publish(st.append()) // old gets it, in this batch
		st.room().remove(old.session)
		st.joined(m)
		st.publish(st.append())
		st.got(m, "E1/1", "E1/2")
	})
}

func TestJoinerWhoComesBehindOneConfirmedLaterNeedsNoRead(t *testing.T) {
	for name, test := range map[string]struct {
		events  []int // that come before the one confirmed later is let in
		refused bool  // the other one has to read on
	}{
		"all came":      {[]int{0, 1, 2}, false},
		"twice":         {[]int{0, 1, 0, 1, 2}, false},
		"with a hole":   {[]int{0, 2}, true},
		"not yet":       {[]int{0}, true},
		"none":          {nil, true},
		"more than all": {[]int{0, 1, 2, 3}, false},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(t *testing.T, st *stage) {
				events := []roomlog.Event{st.append()}
				early := st.joining() // gets seq 2 and later
				events = append(events, st.appendMany(2)...)
				late := st.joining() // gets seq 4 and later
				events = append(events, st.append())
				for _, i := range test.events {
					st.publish(events[i])
				}
				st.joined(late)
				if added := st.room().add(early.session, 1); added == test.refused {
					t.Fatalf("added: %v", added)
				} else if !added {
					st.joined(early)
				}
				st.publish(events...)
				st.publish(st.append())
				st.got(early, span("E1", 2, 5)...)
				st.got(late, span("E1", 4, 5)...)
			})
		})
	}
}

func TestJoinerKeepsWhatWaitsForAReadOfMembersThatLeft(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.hold()
		events := st.appendMany(3)
		st.publish(events[2]) // a hole: old reads
		m := st.joining()     // gets seq 4 and later
		st.publish(st.append())
		st.room().remove(old.session)
		st.step()
		st.release()
		st.step() // no member is left to read for
		st.joined(m)
		st.got(m, "E1/4")
	})
}

func TestBreakWhileTheFirstMemberJoinsIsRead(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.joining()
		st.appendMany(2) // lost
		st.room().read() // Resubscribed
		st.joined(m)
		st.got(m, "E1/1", "E1/2")
	})
}

func TestSessionThatEndsWhileItJoinsIsClosed(t *testing.T) {
	for kind, want := range map[roomlog.Kind]wire.CloseCode{
		roomlog.KindReplaced: wire.CloseReplaced, roomlog.KindRemoved: wire.CloseRemoved,
		roomlog.KindGivenUp: wire.CloseLeaseLost, roomlog.KindDeleted: wire.CloseRoomDeleted,
	} {
		onStage(t, func(t *testing.T, st *stage) {
			old := st.join()
			m := st.joining()
			data := m.id
			if kind == roomlog.KindDeleted {
				data = ""
			}
			st.publish(roomlog.Event{Kind: kind, Epoch: "E1", Data: []byte(data)})
			st.joined(m)
			st.got(m, fmt.Sprintf("close %d", want))
			if kind == roomlog.KindDeleted {
				st.got(old, "close 4442")
			} else {
				st.got(old)
			}
		})
	}
}

func TestNoticeEndsItsSessionBehindWhatCameBefore(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		a, b := st.join(), st.join()
		st.publish(st.append(), roomlog.Event{Kind: roomlog.KindRemoved, Epoch: "E1", Data: []byte(b.id)}, st.append())
		st.got(b, "E1/1", "close 4441")
		st.got(a, "E1/1", "E1/2")
	})
}

func TestNoticeOfAnotherLifeStillEndsItsSession(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.again("E2")
		m := st.joining()
		st.publish(roomlog.Event{Kind: roomlog.KindReplaced, Epoch: "E2", Data: []byte(m.id)})
		st.joined(m)
		st.got(m, "close 4440")
		_ = old
	})
}

func TestMembersOfTwoLivesAreToldApartByTheLog(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.publish(st.append())
		st.again("E2")
		st.appendMany(2)
		m := st.join() // its gateway has not heard of the deletion
		st.publish(st.append())
		st.got(old, "E1/1", "close 4442")
		st.got(m, "E2/3")
	})
}

// A read that began in the old epoch must not close a session that joined the new one
// meanwhile.
func TestReadFromBeforeAJoinDoesNotEndTheJoiner(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.hold()
		st.publish(st.appendMany(2)[1]) // a hole: reads E1
		st.step()
		st.again("E2")
		m := st.join()
		e := st.append()
		st.publish(e)
		st.release()
		st.step()
		st.got(m, "E2/1")
		st.got(old, "E1/1", "E1/2", "close 4442")
	})
}

func TestRoomThatIsGoneEndsItsMembers(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.set(func() { st.gone = true })
		st.room().read()
		st.got(m, "close 4442")
	})
}

func TestLeaverIsOutOnceItHasWhatItSaid(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m, other := st.join(), st.join()
		departed := make(chan struct{})
		if !st.room().depart(m.session, 2, departed) {
			t.Fatal("no member")
		}
		st.publish(st.append())
		st.step()
		select {
		case <-departed:
			t.Fatal("departed too early")
		default:
		}
		st.publish(st.append())
		st.step()
		<-departed
		st.publish(st.append())
		st.got(m, "E1/1", "E1/2")
		st.got(other, span("E1", 1, 3)...)
	})
}

func TestTailKeepsTheNewestWithinItsBounds(t *testing.T) {
	for name, of := range map[string]struct{ entries, bytes int }{
		"entries": {3 * maxTail, 1},
		"bytes":   {3 * maxTailBytes / wire.DefaultFrameBytes, wire.DefaultFrameBytes},
	} {
		t.Run(name, func(t *testing.T) {
			var list tail
			frame, dropped := make([]byte, of.bytes), false
			for seq := int64(1); seq <= int64(of.entries); seq++ {
				before := len(list.entries)
				list.add(roomlog.Entry{Seq: seq, Frame: frame})
				n := len(list.entries)
				if list.bytes != n*of.bytes || list.bytes > maxTailBytes || n > maxTail {
					t.Fatalf("%d entries, %d bytes", n, list.bytes)
				}
				if n > before {
					continue
				}
				dropped = true
				if n < before/2 {
					t.Fatalf("%d of %d entries are left", n, before)
				}
				for i, e := range list.entries {
					if want := seq - int64(n-1-i); e.Seq != want {
						t.Fatalf("seq %d at %d, want %d", e.Seq, i, want)
					}
				}
			}
			if !dropped {
				t.Fatal("the bound was never reached")
			}
		})
	}
}

// A session whose peer takes its replay slowly is joining for minutes.
func TestOnlyEndsOfSessionsThatJoinHereAreRemembered(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.join()
		late, ended := st.joining(), st.joining()
		for i := range 1_000 {
			st.publish(roomlog.Event{Kind: roomlog.KindReplaced, Epoch: "E1", Data: []byte(fmt.Sprint("elsewhere-", i))})
		}
		st.publish(roomlog.Event{Kind: roomlog.KindRemoved, Epoch: "E1", Data: []byte(ended.id)})
		if n := len(st.room().joining); n != 2 {
			t.Errorf("%d sessions are remembered, 2 are joining", n)
		}
		st.joined(late)
		st.joined(ended)
		st.got(late)
		st.got(ended, fmt.Sprint("close ", int(wire.CloseRemoved)))
		if r := st.room(); r.joining != nil {
			t.Error("ends are remembered though nobody joins")
		}
	})
}

// Nothing but the read would find an entry that was published while no event came.
func TestAReadThatIsDueOutlivesTheMemberThatItWasFor(t *testing.T) {
	for name, done := range map[string]bool{"it is under way": false, "it ends with nobody there": true} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(t *testing.T, st *stage) {
				first := st.join()
				second := st.joining()
				st.append() // not published
				st.hold()
				st.room().read()
				st.step()
				st.room().remove(first.session)
				if done {
					st.release()
					st.step()
				}
				st.joined(second)
				if !done {
					st.release()
				}
				st.step()
				st.got(second, span("E1", 1, 1)...)
			})
		})
	}
}
