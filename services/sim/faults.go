package sim

import "time"

// strike makes a fault happen. A fault that lasts is undone after its time.
func (w *world) strike(s Step) {
	w.count(w.struck, s.Do)
	g := w.gateway(s.Node)
	switch s.Do {
	case "lose-request":
		g.rooms.arm(s.What, trouble{Loss: "request"})
	case "cut-request":
		g.rooms.arm(s.What, trouble{Loss: "request", Reset: true})
	case "lose-reply":
		g.rooms.arm(s.What, trouble{Loss: "reply"})
	case "cut-reply":
		g.rooms.arm(s.What, trouble{Loss: "reply", Reset: true})
	case "late":
		g.rooms.arm(s.What, trouble{Late: s.For})
	case "twice":
		g.rooms.arm(s.What, trouble{Again: s.For})
	case "redis-cut":
		w.net.cut(w.process(s.Node), w.store)
	case "redis-lose":
		w.loseAnswer(w.process(s.Node))
	case "redis-away":
		w.lasting(s.For, w.redisAway(s.Node))
	case "redis-hang":
		if h := w.process(s.Node); h != nil {
			w.lasting(s.For, w.net.block(h, w.store))
		} else {
			w.lasting(s.For, w.net.pause(w.store))
		}
	case "sub-cut":
		w.net.subscriptions(g.host, cutLocked)
	case "sub-slow":
		w.subscriptionFault(g.host, s.For, func(sub *stream) { sub.slow = s.For / 8 }, func(sub *stream) { sub.slow = 0 })
	case "sub-hang":
		w.subscriptionFault(g.host, s.For, func(sub *stream) { sub.hung = true }, func(sub *stream) { sub.hung = false })
	case "sub-deaf":
		w.subscriptionFault(g.host, s.For, func(sub *stream) { sub.deaf = true }, (*stream).hearAgainLocked)
	case "pause-gateway":
		w.lasting(s.For, w.net.pause(g.host))
	case "pause-rooms":
		w.lasting(s.For, w.net.pause(w.roomService(s.Node).host))
	case "pause-redis":
		w.lasting(s.For, w.net.pause(w.store))
	case "pause-users":
		w.lasting(s.For, w.net.pause(w.users))
	case "split":
		for i := range w.rooms {
			w.lasting(s.For, w.net.block(g.host, w.roomService(i).host))
		}
	case "kill-gateway", "lose-gateway":
		w.killGateway(s.Node, s.For, s.Do == "lose-gateway")
	case "kill-rooms", "lose-rooms":
		w.killRooms(s.Node, s.For, s.Do == "lose-rooms")
	case "slow-user":
		w.slow(s)
	case "cut-users":
		w.people[s.User%len(w.people)].cut()
	}
}

// subscriptionFault strikes only the connections over which a process now receives what is
// published: neither other connections nor subscriptions that it makes meanwhile.
func (w *world) subscriptionFault(h *host, d time.Duration, strike, undo func(*stream)) {
	struck := w.net.subscriptions(h, strike)
	w.lasting(d, func() {
		w.net.mu.Lock()
		defer w.net.mu.Unlock()
		for _, s := range struck {
			undo(s)
		}
		w.net.changedLocked()
	})
}

// slow makes a user take little or nothing, over all connections that it has and makes.
func (w *world) slow(s Step) {
	p := &w.people[s.User%len(w.people)].pace
	w.net.mu.Lock()
	p.slow, p.bytes = p.slow+1, s.Bytes
	w.net.mu.Unlock()
	w.lasting(s.For, func() {
		w.net.mu.Lock()
		defer w.net.mu.Unlock()
		p.slow--
		w.net.changedLocked()
	})
}

// process returns a gateway or a room service. For a higher node it returns nil.
func (w *world) process(node int) *host {
	if node < len(w.gateways) {
		return w.gateway(node).host
	}
	if node -= len(w.gateways); node < len(w.rooms) {
		return w.roomService(node).host
	}
	return nil
}

// lasting undoes a fault when its time is over.
func (w *world) lasting(d time.Duration, undo func()) {
	w.background.Go(func() {
		sleep(w.ctx, d)
		undo()
	})
}

// redisAway makes Redis unreachable. For one process, it breaks its connections and blocks
// the way to Redis. For all processes, Redis refuses connections.
func (w *world) redisAway(node int) (back func()) {
	h := w.process(node)
	if h == nil {
		return w.net.refuse(w.store)
	}
	w.net.cut(h, w.store)
	return w.net.block(h, w.store)
}

// loseAnswer breaks a process' connections to Redis as the next answer comes: the command
// has arrived, and its answer is lost.
func (w *world) loseAnswer(h *host) {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	for s := range w.net.streams {
		if s.src == w.store && s.dst == h {
			s.breakNext = true
		}
	}
}

func (w *world) killGateway(slot int, away time.Duration, silent bool) {
	slot %= len(w.gateways)
	g := w.gateway(slot)
	if !w.bury(g.host, silent) {
		return
	}
	w.background.Go(g.close)
	w.background.Go(func() {
		if sleep(w.ctx, away) {
			_ = w.startGateway(slot) // it started before
		}
	})
}

func (w *world) killRooms(slot int, away time.Duration, silent bool) {
	slot %= len(w.rooms)
	s := w.roomService(slot)
	if !w.bury(s.host, silent) {
		return
	}
	w.background.Go(s.close)
	w.background.Go(func() {
		if sleep(w.ctx, away) {
			w.startRooms(slot)
		}
	})
}

// bury ends a process. It returns false if the process had ended before.
func (w *world) bury(h *host, silent bool) bool {
	w.mu.Lock()
	_, dead := w.died[h]
	if !dead {
		w.died[h] = time.Now()
	}
	w.mu.Unlock()
	if !dead {
		w.net.kill(h, silent)
		w.truth.buried(h)
	}
	return !dead
}
