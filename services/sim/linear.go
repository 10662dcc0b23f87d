package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/room"
)

// linearTimeout bounds the search for one room. A longer search is given up, and the room
// counts as undecided. Of 200 seeds, all but one take less than a second, and that one takes
// longer than anybody would wait.
const linearTimeout = 4 * time.Second

// event is one call that a room service carried out, as the model sees it. Times are in ms,
// as in the scripts. The call took effect at a time from call to end.
type event struct {
	kind      string
	user      string
	session   string
	token     string // permit in the request, or in the answer of a reservation
	call, end int64
	code      wire.Code // why it was refused; "" if it was not
	unknown   bool      // it may have been carried out, or may still be
	settled   int64     // if unknown: it is not carried out after this time
	epoch     string
	taken     int   // seats that the answer counts; -1 if it counts none
	deadline  int64 // of a permit
	latest    int64 // latest end of a renewed lease; 0 if not given
	renewed   []string
	lost      []string
}

func (e event) String() string {
	what := strings.Join([]string{e.kind, e.user, e.session, e.token}, " ")
	switch {
	case e.unknown:
		return what + " = ?"
	case e.code != "":
		return what + " = " + string(e.code)
	}
	return fmt.Sprintf("%s = OK epoch %s taken %d renewed %v lost %v", what, e.epoch, e.taken, e.renewed, e.lost)
}

// linearize searches, for each room, an order of all calls in which each took effect at one
// moment between its beginning and its end, and in which the model of the room would give
// the answers that the calls got.
func (w *world) linearize() {
	rooms := make(map[string][]porcupine.Operation)
	ends := make(map[string]int64) // latest possible end of each session's lease
	for id, s := range w.truth.sessions {
		ends[id] = s.until.UnixMilli()
	}
	for _, c := range w.history.calls {
		for room, e := range events(c) {
			rooms[room] = append(rooms[room], porcupine.Operation{
				Input: e, Call: c.Call.UnixNano(), Return: c.Return.UnixNano(), Output: e,
			})
			for _, s := range append(e.renewed, e.session) {
				if e.code == "" && !e.unknown && (e.kind == "confirm" || e.kind == "renew") {
					ends[s] = max(ends[s], e.leaseFrom(e.end))
				}
				if e.kind == "confirm" && e.unknown {
					ends[s] = max(ends[s], e.settled+wire.Lease.Milliseconds())
				}
			}
		}
	}
	for room, ops := range rooms {
		model := roomModel(w.shape(room), ends)
		result, info := porcupine.CheckOperationsVerbose(model, ops, linearTimeout)
		switch result {
		case porcupine.Illegal:
			w.tell("order", "room %s: no order of the calls explains their answers; %s", room, stuck(info, ops))
		case porcupine.Unknown:
			w.mu.Lock()
			w.undecided++
			w.mu.Unlock()
		}
	}
}

// stuck names the calls that do not fit after the longest order that was found.
func stuck(info porcupine.LinearizationInfo, ops []porcupine.Operation) string {
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, order := range partition {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	done := make(map[string]bool)
	for _, o := range longest {
		done[fmt.Sprint(o.Call, o.Input)] = true
	}
	var left []porcupine.Operation
	for _, o := range ops {
		if !done[fmt.Sprint(o.Call, o.Input)] {
			left = append(left, o)
		}
	}
	slices.SortFunc(left, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d calls fit, then none of", len(longest), len(ops))
	for _, o := range left[:min(3, len(left))] {
		at := time.Unix(0, o.Call).UTC().Format("04:05.000")
		fmt.Fprintf(&b, "; %s %v", at, o.Input)
	}
	return b.String()
}

// events returns what a call means for each room that it touches.
func events(c *call) map[string]event {
	e := event{call: c.Call.UnixMilli(), end: c.Return.UnixMilli(), taken: -1}
	if c.Err != nil {
		e.code, e.unknown, e.settled = wire.CodeOf(c.Err), c.unknown(), c.Settled.UnixMilli()
	}
	room := ""
	switch req := c.Req.(type) {
	case *roomv1.CreateRoomRequest:
		room, e.kind = req.GetRoomId(), "create"
		if e.code == "" {
			e.describe(c.Resp.(*roomv1.CreateRoomResponse).GetRoom())
		}
	case *roomv1.GetRoomRequest:
		room, e.kind = req.GetRoomId(), "get"
		if e.code == "" {
			e.describe(c.Resp.(*roomv1.GetRoomResponse).GetRoom())
		}
	case *roomv1.ReservePermitRequest:
		room, e.kind, e.user = req.GetRoomId(), "reserve", req.GetUserId()
		if e.code == "" {
			p := c.Resp.(*roomv1.ReservePermitResponse)
			e.token, e.deadline = p.GetPermit(), p.GetExpireTime().AsTime().UnixMilli()
		}
	case *roomv1.CancelPermitRequest:
		room, e.kind, e.token = req.GetRoomId(), "cancel", req.GetPermit()
	case *roomv1.ConfirmJoinRequest:
		room, e.kind, e.token, e.session, e.user = req.GetRoomId(), "confirm", req.GetPermit(), req.GetSessionId(), req.GetUserId()
		if e.code == "" {
			r := c.Resp.(*roomv1.ConfirmJoinResponse)
			e.user = r.GetMember().GetUserId()
			e.describe(r.GetRoom())
		}
	case *roomv1.LeaveRequest:
		room, e.kind, e.session = req.GetRoomId(), "leave", req.GetSessionId()
	case *roomv1.RenewLeasesRequest:
		return renewals(c, e, req)
	}
	return map[string]event{room: e}
}

// leaseFrom returns when a lease ends that is granted at the time ms.
func (e event) leaseFrom(ms int64) int64 {
	ends := ms + wire.Lease.Milliseconds()
	if e.latest != 0 {
		return min(ends, e.latest)
	}
	return ends
}

func (e *event) describe(r *roomv1.Room) {
	e.epoch, e.taken = r.GetEpoch(), int(r.GetReserved()+r.GetOccupied())
}

// renewals returns the events of a RenewLeases call, by room. A renewal whose outcome is
// unknown is left out: it adds nothing to what the ends of the leases say.
func renewals(c *call, e event, req *roomv1.RenewLeasesRequest) map[string]event {
	if c.Err != nil {
		return nil
	}
	if t := req.GetSentTime(); t != nil {
		e.latest = t.AsTime().Add(wire.Lease + room.SentWithin).UnixMilli()
	}
	lost := make(map[string]bool)
	for _, l := range c.Resp.(*roomv1.RenewLeasesResponse).GetLost() {
		lost[l.GetSessionId()] = true
	}
	rooms := make(map[string]event)
	for _, s := range req.GetSessions() {
		of, ok := rooms[s.GetRoomId()]
		if !ok {
			of = e
			of.kind = "renew"
		}
		if lost[s.GetSessionId()] {
			of.lost = append(of.lost, s.GetSessionId())
		} else {
			of.renewed = append(of.renewed, s.GetSessionId())
		}
		rooms[s.GetRoomId()] = of
	}
	return rooms
}
