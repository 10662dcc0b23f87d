package gateway

import (
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// In these tests Redis comes back with less than it had, as after a crash with appendfsync
// everysec.

func TestLogThatLostEntriesSendsMembersBack(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.publish(st.appendMany(5)...)
		st.set(func() { st.entries = st.entries[:2] })
		st.room().read()
		st.got(m, append(span("E1", 1, 5), "close 4503")...)
	})
}

func TestWhoComesBackToALogThatLostEntriesGetsNoneOfThem(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.joining() // and not in yet: what is published is kept for it
		st.publish(st.appendMany(5)...)
		st.got(old, span("E1", 1, 5)...)
		st.set(func() { st.entries = st.entries[:2] })
		st.room().read() // Resubscribed
		st.got(old, append(span("E1", 1, 5), "close 4503")...)

		back := st.join() // JOINED says 2
		st.step()
		st.publish(st.anew(3, 6)...)
		st.got(back, "new/3", "new/4", "new/5", "new/6")
	})
}

// The last member leaves while the room reads, so that the result of the read finds no member
// to close.
func TestWhoJoinsAReadOfALogThatLostEntriesGetsNoneOfThem(t *testing.T) {
	for name, answered := range map[string]bool{"before its answer": false, "behind its answer": true} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(t *testing.T, st *stage) {
				old := st.join()
				st.joining() // and not in yet: what is published is kept for it
				st.publish(st.appendMany(5)...)
				st.step()
				st.set(func() { st.entries = st.entries[:2] })
				st.hold()
				st.room().read() // Resubscribed
				st.room().remove(old.session)
				if answered {
					st.release()
					st.step()
				}
				m := st.join() // JOINED says 2
				if !answered {
					st.release()
				}
				st.step()
				st.publish(st.anew(3, 6)...)
				st.got(m, "new/3", "new/4", "new/5", "new/6")
			})
		})
	}
}

// There was a hole before what is lost, so the lost entry waits for a read.
func TestALogThatLostWhatWaitsSendsMembersBack(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		events := st.appendMany(3)
		st.publish(events[0])
		st.step()
		st.set(func() { st.fault = io.ErrUnexpectedEOF }) // Redis dies
		st.publish(events[2])                             // a hole: 2 is read, 3 waits
		synctest.Wait()
		st.set(func() { st.fault, st.entries = nil, st.entries[:1] }) // it is back, without 2 and 3
		before := st.reads
		for range 50 { // not step, which would never return
			time.Sleep(readRetry)
			synctest.Wait()
			st.round()
		}
		if n := st.reads - before; n > 3 {
			t.Errorf("%d reads, one behind the other without a pause", n)
		}
		if got := m.tape.frames(); !slices.Equal(got, []string{"E1/1", "close 4503"}) {
			t.Errorf("got %q", got)
		}
		if t.Failed() {
			st.shard.rooms["room"].remove(m.session) // ends the reads
		}
	})
}

func TestAMemberAheadOfALogThatLostEntriesIsSentBack(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.join()
		st.appendMany(3) // not published yet
		m := st.join()   // JOINED says 3
		st.set(func() { st.entries = st.entries[:1] })
		st.room().read() // Resubscribed
		st.step()
		st.publish(st.anew(2, 4)...)
		st.got(m, "close 4503")
	})
}

// When the log tells of the new epoch, no member of that epoch is here yet, so the entry that
// led to the read has nobody to go to.
func TestTheEntryThatTellsOfANewLifeReachesWhoJoinsIt(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.again("E2") // the last seat of the old epoch lapsed, of which there is no notice
		st.append()
		m := st.joining() // takes its own seat over, for which only a notice 'r' is published
		st.publish(st.append())
		st.got(old, "close 4442")
		st.joined(m)
		st.got(m, "E2/2")
	})
}
