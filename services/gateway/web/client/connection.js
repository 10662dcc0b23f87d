import { AnteroomError, closeCode, closeName, closeWords, fullJitter, mayReturn } from './codes.js';
import { KEEP_SEAT, Link } from './link.js';
import { Outbox, messageId } from './outbox.js';
import { RoomLog } from './roomlog.js';

// A connection that held this long was sound; shorter ones keep backing off.
const SOUND_MS = 10_000;
const LEAVE_DEADLINE_MS = 3_000;
// How long the server may take to free a seat that was given up by a close.
const GIVE_UP_SECONDS = 0.5;
// After a hole in the log every member wants a fresh roster: not all at once.
const REFRESH_SPREAD_MS = 5_000;
// A timer of more than 24.8 days fires at once.
const DRAIN_MAX_MS = 86_400_000;

/**
 * A seat in a room, kept through broken connections and server restarts. Made
 * by `Anteroom.join`.
 *
 * It is an EventTarget; each event is a CustomEvent with this `detail`:
 *
 * | event          | detail |
 * |----------------|--------|
 * | `state`        | `{state, reason, delayMs?}`: `connecting`, `open`, `reconnecting` (the next attempt comes in `delayMs`) or `closed`; `reason` is a sentence |
 * | `joined`       | the JOINED frame and `rejoin` (not the first on this connection), `renewed` (the room was made anew since) |
 * | `message`      | the MESSAGE frame and `own` |
 * | `memberjoined` | the MEMBER_JOINED frame and `replayed` |
 * | `memberleft`   | the MEMBER_LEFT frame and `replayed` |
 * | `occupancy`    | `{occupied, capacity}` whenever it was told |
 * | `gap`          | `{from, to}`: entries that will never come |
 * | `error`        | `{code, detail, id?, retrying}`: an ERROR frame, unless its message was answered before; `retrying` when that is sent again by itself |
 * | `closed`       | `{code, name, reason, detail?, joined}`: the end, no event follows; `joined` tells whether a seat was ever had |
 *
 * Entries come once each, in the order of `seq`. `replayed` marks those missed
 * while away that the roster counts already.
 *
 * A page that is left and kept by the browser (its back/forward cache) gives the seat up;
 * shown again, it joins again with what was missed.
 */
export class RoomConnection extends EventTarget {
  #client;
  #roomId;
  #nickname;
  #permit;
  #permitShown = 0;
  #log;
  #outbox;

  // At most one of each: the link that is read, the one that is to follow it,
  // and the one that was read until the follower sent its JOIN.
  #link = null;
  #opening = null;
  #retired = null;

  #state = 'connecting';
  #timer = null;
  #attempt = 0;
  #dialing = 0;
  #moveAt = 0;
  // What the server asked to wait for; only our own delay may be cut short.
  #earliest = 0;
  #joinedAt = 0;
  #refusal = null;
  #leaving = null;
  // The name of what closed it.
  #end = null;
  #me = null;
  // Whose echoes are ours: more than one user where an identity lapsed meanwhile.
  #userIds = new Set();
  // Whether the ids of messages sent before still protect from doubles.
  #idsKnown = true;
  #onOnline = () => {
    this.#link?.check();
    this.#hurry('The network is back.');
  };
  #onPageHide = (event) => { if (event.persisted) this.#pageLeft(); };
  #onPageShow = (event) => { if (event.persisted) this.#pageBack(); };

  /**
   * @param {object} client what `Anteroom` gives: identity(), keepIdentity(), forgetIdentity(), socketUrl(), cancel()
   * @param {string} roomId
   * @param {{nickname?: string, permit?: string, after?: {epoch: string, seq: number}}} options
   */
  constructor(client, roomId, { nickname, permit, after } = {}) {
    super();
    this.#client = client;
    this.#roomId = roomId;
    this.#nickname = nickname || undefined;
    this.#permit = permit;
    this.#log = new RoomLog(after);
    this.#outbox = new Outbox((frame) => this.#link?.sendText(frame));
    globalThis.addEventListener?.('online', this.#onOnline);
    globalThis.addEventListener?.('pagehide', this.#onPageHide);
    globalThis.addEventListener?.('pageshow', this.#onPageShow);
    // Listeners are added after the constructor returns, so nothing is told before.
    queueMicrotask(() => {
      if (this.#state === 'closed') return;
      this.#tell('connecting', 'Joining the room.');
      this.#dial();
    });
  }

  get roomId() { return this.#roomId; }
  /** `connecting`, `open`, `reconnecting` or `closed`. */
  get state() { return this.#state; }
  /** Seats of the room; 0 before the first `joined`. */
  get capacity() { return this.#log.capacity; }
  /** Seats that are occupied. */
  get occupied() { return this.#log.occupied; }
  /** @returns {Map<string, {userId: string, nickname?: string}>} empty in rooms that only count */
  get members() { return this.#log.members; }
  /** The own user's id, once joined. */
  get userId() { return this.#me?.userId; }
  get sessionId() { return this.#me?.sessionId; }
  /** `{epoch, seq}` of the last entry, for `after` of a later join; undefined before the first. */
  get position() { return this.#log.position; }

  /**
   * Sends a message. While there is no connection it waits for one. Messages that wait
   * together keep their order, unless the server refuses some for now (RATE_LIMITED, UNAVAILABLE):
   * who needs it then awaits each.
   * @param {any} body any JSON value; the frame may have 16 KiB unless the server allows more
   * @param {{id?: string}} [options] the id that marks retries, 1–64 characters; one that waits already is not sent again,
   *   and one that was answered on this connection is not answered a second time
   * @returns {Promise<object>} the MESSAGE frame as the room got it, with `seq` and `time`
   * @throws {AnteroomError} as rejection: BAD_REQUEST and the like when refused, CLOSED when it was
   *   never sent, UNCONFIRMED when it may have been delivered, RATE_LIMITED when 1,000 messages
   *   are waiting already
   */
  send(body, { id = messageId() } = {}) {
    if (this.#state === 'closed') return Promise.reject(ended(this.#end));
    if (typeof id !== 'string' || id === '' || [...id].length > 64 || /\p{Surrogate}/u.test(id)) {
      return Promise.reject(new AnteroomError('BAD_REQUEST', 'an id is a string of 1 to 64 characters'));
    }
    let frame;
    try {
      // Once: what is sent again is what was sent, whatever the body has become.
      frame = JSON.stringify({ type: 'MESSAGE', id, body: body ?? null });
    } catch (error) {
      return Promise.reject(new AnteroomError('BAD_REQUEST', error.message));
    }
    const size = new TextEncoder().encode(frame).length;
    if (size > this.#client.maxFrameBytes) {
      const detail = `the message has ${size} bytes, ${this.#client.maxFrameBytes} are allowed`;
      return Promise.reject(new AnteroomError('BAD_REQUEST', detail));
    }
    return this.#outbox.add(id, frame);
  }

  /**
   * Gives the seat up. Without a connection it cannot: then the seat goes with the rest of
   * its lease.
   * @returns {Promise<void>} resolved when the connection is closed, after 3 s at the latest
   */
  leave() {
    if (this.#leaving || this.#state === 'closed') return this.#leaving ?? Promise.resolve();
    this.#leaving = new Promise((resolve) => {
      this.addEventListener('closed', () => resolve(), { once: true });
    });
    this.#stopDialing(1000);
    if (this.#link) {
      this.#link.send({ type: 'LEAVE' });
      this.#timer = setTimeout(() => this.#finish(1000), LEAVE_DEADLINE_MS);
    } else {
      if (this.#permit) this.#client.cancel({ roomId: this.#roomId, permit: this.#permit }).catch(() => {});
      this.#finish(1000);
    }
    return this.#leaving;
  }

  /**
   * Cuts the delay before the next attempt to less than a second, for an application
   * that heard elsewhere that the service answers again. A delay that the server asked
   * for stays.
   */
  hurry() {
    this.#hurry('The service answers again.', fullJitter(1));
  }

  async #dial() {
    if (this.#leaving || this.#state === 'closed') return;
    this.#timer = null;
    if (this.#opening) return;
    const dialing = ++this.#dialing;
    if (!this.#link && this.#state === 'reconnecting') {
      this.#tell('reconnecting', 'Connecting again.', { delayMs: 0 });
    }
    let identity;
    try {
      ({ identity } = await this.#client.identity());
    } catch (error) {
      if (dialing === this.#dialing) this.#unidentified(error);
      return;
    }
    if (dialing !== this.#dialing) return;
    const link = new Link(this.#client.socketUrl(), {
      open: () => this.#opened(link, identity),
      frame: (frame) => this.#receive(link, frame),
      close: (code) => this.#dropped(link, code),
    });
    this.#opening = link;
  }

  #unidentified(error) {
    const refused = error instanceof AnteroomError && error.code !== 'RATE_LIMITED' && !mayReturn(closeCode(error.code));
    if (refused && !this.#link) {
      this.#refusal = error;
      this.#finish(closeCode(error.code));
    } else {
      this.#dialLater(`No identity: ${error.detail ?? error.message}.`, error.retryAfterSeconds);
    }
  }

  #opened(link, identity) {
    // The predecessor falls silent from here on: what it would still bring
    // comes again behind JOINED. It stays open, so that the seat is transferred.
    this.#retire();
    this.#refusal = null;
    if (this.#permit) this.#permitShown++;
    link.send({
      type: 'JOIN',
      roomId: this.#roomId,
      permit: this.#permit,
      identity,
      nickname: this.#nickname,
      after: this.#log.position,
    });
  }

  #receive(link, frame) {
    if (link === this.#link) this.#read(frame);
    else if (link !== this.#opening) return;
    else if (frame.type === 'JOINED') this.#joined(link, frame);
    else if (frame.type === 'ERROR') this.#refusal = frame;
  }

  #joined(link, frame) {
    const rejoin = this.#me !== null;
    const sameUser = !rejoin || this.#me.userId === frame.userId;
    // The seat was taken over, unless our identity lapsed: then it is the old user's still.
    this.#retired?.drop(sameUser ? KEEP_SEAT : 1000);
    this.#retired = this.#opening = null;
    this.#link = link;
    clearTimeout(this.#timer);
    this.#timer = null;
    link.watch();
    this.#permit = undefined;
    this.#joinedAt = Date.now();
    if (frame.identity) this.#client.keepIdentity({ userId: frame.userId, identity: frame.identity });
    const renewed = this.#log.join(frame);
    // A room made anew does not know the ids that were sent to the one before.
    if (!sameUser || renewed) this.#idsKnown = false;
    this.#me = { userId: frame.userId, sessionId: frame.sessionId };
    this.#userIds.add(frame.userId);
    this.#tell('open', 'Connected.');
    this.#emit('joined', { ...frame, rejoin, renewed });
    this.#emitOccupancy();
    this.#catchUp();
  }

  /** Messages wait until the replay is read: it may hold their echoes. */
  #catchUp() {
    if (!this.#link || !this.#log.caughtUp) return;
    this.#outbox.resume(this.#idsKnown);
    this.#idsKnown = true;
  }

  #read(frame) {
    switch (frame.type) {
      case 'MESSAGE':
      case 'MEMBER_JOINED':
      case 'MEMBER_LEFT':
        return this.#entry(frame);
      case 'OCCUPANCY':
        this.#log.occupied = frame.occupied;
        return this.#emitOccupancy();
      case 'GAP':
        return this.#gap(this.#log.skip(frame));
      case 'ERROR':
        return this.#error(frame);
      case 'DRAINING':
        return this.#drain(Math.min(DRAIN_MAX_MS, Number(frame.reconnectAfterMs) || 0));
    }
  }

  #drain(delayMs) {
    this.#earliest = Date.now() + delayMs;
    this.#move(delayMs, 'This server is restarting; moving to another.');
  }

  #entry(frame) {
    const own = frame.type === 'MESSAGE' && this.#userIds.has(frame.from.userId);
    // Before doubles are dropped: the answer to a retry is the first delivery's entry.
    if (own && frame.id) this.#outbox.echo(frame.id, frame);
    const news = this.#log.accept(frame);
    if (!news) return;
    this.#gap(news.gap);
    if (frame.type === 'MESSAGE') {
      this.#emit('message', { ...frame, own });
    } else {
      this.#emit(frame.type === 'MEMBER_JOINED' ? 'memberjoined' : 'memberleft', { ...frame, replayed: news.replayed });
      if (!news.replayed) this.#emitOccupancy();
    }
    this.#catchUp();
  }

  #gap(gap) {
    if (!gap) return;
    this.#emit('gap', gap);
    this.#catchUp();
    // Joins and leaves may be among what is lost: a rejoin brings the roster anew.
    // Where presence only counts there is none.
    const stale = gap.to > this.#log.rosterSeq && this.members.size > 0;
    if (stale && !this.#timer) this.#move(Math.random() * REFRESH_SPREAD_MS, 'Connected.');
  }

  #error({ code, detail, id }) {
    if (id === undefined) {
      this.#refusal = { code, detail };
      this.#emit('error', { code, detail, retrying: false });
      return;
    }
    // A message that does not wait any more was answered, and its retry met a limit or
    // an outage: that is no news.
    const refused = this.#outbox.refuse(id, new AnteroomError(code, detail ?? code));
    if (refused) this.#emit('error', { code, detail, id, retrying: refused.retrying });
  }

  /** The browser keeps the page, for hours perhaps, and its socket would keep the seat. */
  #pageLeft() {
    if (this.#leaving || this.#state === 'closed') return;
    this.#stopDialing(1000);
    this.#link?.drop(1000);
    if (this.#link) this.#unlink();
    this.#tell('reconnecting', 'The page was left.', { delayMs: 0 });
  }

  #pageBack() {
    if (this.#state !== 'reconnecting' || this.#link || this.#timer) return;
    // A delay that the server asked for goes on while the page is away.
    if (Date.now() < this.#earliest) this.#dialLater('The page is back.');
    else this.#dial();
  }

  /** Opens a second connection after a while and lets the first go once that is joined. */
  #move(delayMs, reason) {
    if (this.#leaving || this.#opening) return;
    clearTimeout(this.#timer);
    this.#moveAt = Date.now() + delayMs;
    this.#timer = setTimeout(() => this.#dial(), delayMs);
    this.#tell('open', reason);
  }

  #dropped(link, code) {
    if (link === this.#retired) {
      this.#retired = null;
    } else if (link === this.#opening) {
      this.#opening = null;
      // Only another user, as our identity lapsed, finds our own seat taken: it is given up.
      const ownSeat = this.#retired !== null && closeName(code) === 'ROOM_FULL';
      this.#retired?.drop(ownSeat ? 1000 : KEEP_SEAT);
      this.#retired = null;
      if (ownSeat) this.#dialLater(closeWords(code), GIVE_UP_SECONDS);
      else if (closeName(code) === 'PERMIT_EXPIRED' && this.#permitShown > 1) this.#dialWithoutPermit();
      else this.#returnOrEnd(code);
    } else if (link === this.#link) {
      this.#unlink();
      this.#returnOrEnd(code);
    }
  }

  #returnOrEnd(code) {
    if (this.#leaving || !mayReturn(code)) this.#finish(code);
    else if (this.#timer) this.#tell('reconnecting', closeWords(code), { delayMs: Math.max(0, this.#moveAt - Date.now()) });
    else if (this.#opening) this.#tell('reconnecting', closeWords(code), { delayMs: 0 });
    else this.#dialLater(closeWords(code));
  }

  /**
   * The permit was shown before, and that answer was lost: it may have been
   * confirmed, and then the user's own seat waits for a walk-in.
   */
  #dialWithoutPermit() {
    this.#permit = undefined;
    this.#permitShown = 0;
    this.#dial();
  }

  /** @param {number} [leastSeconds] what the server asked to wait, or needs */
  #dialLater(reason, leastSeconds = 0) {
    const now = Date.now();
    this.#earliest = Math.max(this.#earliest, now + leastSeconds * 1000);
    const delayMs = this.#earliest - now + fullJitter(this.#attempt++);
    this.#moveAt = now + delayMs;
    // The link may have broken, and set a timer, while the identity was awaited.
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#dial(), delayMs);
    if (!this.#link) this.#tell('reconnecting', reason, { delayMs });
  }

  /** There is news: no need to sit out the rest of the delay. */
  #hurry(reason, delayMs = 0) {
    const now = Date.now();
    if (this.#state !== 'reconnecting' || !this.#timer) return;
    if (now < this.#earliest || now + delayMs >= this.#moveAt) return;
    this.#moveAt = now + delayMs;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#dial(), delayMs);
    this.#tell('reconnecting', reason, { delayMs });
  }

  #retire() {
    if (!this.#link) return;
    this.#retired = this.#link;
    this.#unlink();
  }

  /** The link is no longer read. */
  #unlink() {
    this.#link = null;
    this.#outbox.pause();
    if (Date.now() - this.#joinedAt > SOUND_MS) this.#attempt = 0;
  }

  /** @param {number} code for the links that are not the one read */
  #stopDialing(code) {
    this.#dialing++;
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#opening?.drop(code);
    this.#retired?.drop(code);
    this.#opening = this.#retired = null;
  }

  #finish(code) {
    this.#stopDialing(code === 1000 ? 1000 : KEEP_SEAT);
    this.#link?.drop(1000);
    this.#link = null;
    globalThis.removeEventListener?.('online', this.#onOnline);
    globalThis.removeEventListener?.('pagehide', this.#onPageHide);
    globalThis.removeEventListener?.('pageshow', this.#onPageShow);
    const name = this.#leaving ? 'LEFT' : closeName(code);
    this.#end = name;
    const reason = this.#leaving ? closeWords(1000) : closeWords(code);
    if (name === 'UNAUTHENTICATED') this.#client.forgetIdentity();
    this.#outbox.close(ended(name));
    this.#tell('closed', reason);
    const detail = this.#refusal?.code === name ? this.#refusal.detail : undefined;
    this.#emit('closed', { code, name, reason, detail, joined: this.#me !== null });
  }

  #tell(state, reason, more) {
    this.#state = state;
    this.#emit('state', { state, reason, ...more });
  }

  #emitOccupancy() {
    this.#emit('occupancy', { occupied: this.occupied, capacity: this.capacity });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function ended(name) {
  return new AnteroomError('CLOSED', name);
}
