import { AnteroomError, closeCode, closeName, closeWords, fullJitter, mayReturn } from './codes.js';
import { KEEP_SEAT, Link } from './link.js';
import { Outbox, messageId } from './outbox.js';
import { RoomLog } from './roomlog.js';

// After a connection that lasted this long the delays start over; after a shorter one
// they go on growing.
const SOUND_MS = 10_000;
const LEAVE_DEADLINE_MS = 3_000;
// How long the server may take to free a seat that a close gave up.
const GIVE_UP_SECONDS = 0.5;
// After a gap in the log every member needs a new roster. Their rejoins are spread over
// this time.
const REFRESH_SPREAD_MS = 5_000;
// A timer of more than 24.8 days fires at once.
const DRAIN_MAX_MS = 86_400_000;

/**
 * A seat in a room that outlasts broken connections and server restarts.
 * `Anteroom.join` creates it.
 *
 * It is an EventTarget. Each event is a CustomEvent with this `detail`:
 *
 * | event          | detail |
 * |----------------|--------|
 * | `state`        | `{state, reason, delayMs?}`: `connecting`, `open`, `reconnecting` (the next attempt comes in `delayMs`) or `closed`; `reason` is a sentence |
 * | `joined`       | the JOINED frame with `rejoin` (this connection had joined before) and `renewed` (the room was created anew since then) |
 * | `message`      | the MESSAGE frame with `own` (this user sent it) |
 * | `memberjoined` | the MEMBER_JOINED frame with `replayed` |
 * | `memberleft`   | the MEMBER_LEFT frame with `replayed` |
 * | `occupancy`    | `{occupied, capacity}`, each time the server reports the occupancy |
 * | `gap`          | `{from, to}`: the seqs of entries that will never come |
 * | `error`        | `{code, detail, id?, retrying}`: an ERROR frame, unless it is about a message that was answered already; `retrying` tells whether that message is sent again automatically |
 * | `closed`       | `{code, name, reason, detail?, joined}`: the last event; `joined` tells whether this connection ever had a seat |
 *
 * Each entry is reported once, in the order of `seq`. `replayed` marks an entry that was
 * missed while disconnected and that the roster already includes.
 *
 * When the user leaves the page and the browser keeps it (in its back/forward cache),
 * the connection gives the seat up. When the page is shown again, the connection joins
 * again and gets what was missed.
 */
export class RoomConnection extends EventTarget {
  #client;
  #roomId;
  #nickname;
  #permit;
  #permitShown = 0;
  #log;
  #outbox;

  // At most one of each: the link that is read, its successor, which has not joined yet,
  // and its predecessor, which was read until the successor sent JOIN.
  #link = null;
  #opening = null;
  #retired = null;

  #state = 'connecting';
  #timer = null;
  #attempt = 0;
  #dialing = 0;
  #moveAt = 0;
  // No attempt is made before this time, since the server asked for the delay. Only a
  // delay of our own may be cut short.
  #earliest = 0;
  #joinedAt = 0;
  #refusal = null;
  #leaving = null;
  // The `name` of the `closed` event.
  #end = null;
  #me = null;
  // The users that this connection has been: more than one if an identity expired.
  #userIds = new Set();
  // Whether the server would recognise the ids of messages that were sent before.
  #idsKnown = true;
  #onOnline = () => {
    this.#link?.check();
    this.#hurry('The network is back.');
  };
  #onPageHide = (event) => { if (event.persisted) this.#pageLeft(); };
  #onPageShow = (event) => { if (event.persisted) this.#pageBack(); };

  /**
   * @param {object} client an `Anteroom`; used are identity(), keepIdentity(), forgetIdentity(), socketUrl(), cancel()
   *   and maxFrameBytes
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
    // Callers add their listeners after the constructor returns, so no event comes before that.
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
  /** @returns {Map<string, {userId: string, nickname?: string}>} empty if the room's presence is `count` */
  get members() { return this.#log.members; }
  /** This user's id; undefined before the first `joined`. */
  get userId() { return this.#me?.userId; }
  get sessionId() { return this.#me?.sessionId; }
  /**
   * `{epoch, seq}` of the last entry, to pass as `after` to a later join. Before the first
   * `joined` it is the `after` that was given, or undefined.
   */
  get position() { return this.#log.position; }

  /**
   * Sends a message. If there is no connection at the moment, the message waits for one.
   * Messages that wait together keep their order, unless the server refuses some of them
   * temporarily (RATE_LIMITED, UNAVAILABLE). To be sure of the order, await each message
   * before sending the next.
   * @param {any} body any JSON value; the whole frame must fit into `maxFrameBytes`, 16 KiB by default
   * @param {{id?: string}} [options] the id by which the server recognises retries, 1–64 characters.
   *   While a message with this id waits, it is not sent a second time and the same promise is
   *   returned. After its echo, the same id resolves at once with that echo, for 2 minutes, if the
   *   echo is among the last 100, and the room and the user are still the same.
   * @returns {Promise<object>} the MESSAGE frame as the room received it, with `seq` and `time`
   * @throws {AnteroomError} as rejection: BAD_REQUEST and the like if the message was refused,
   *   CLOSED if it was never sent, UNCONFIRMED if it may have been delivered, RATE_LIMITED if
   *   1,000 messages are waiting already
   */
  send(body, { id = messageId() } = {}) {
    if (this.#state === 'closed') return Promise.reject(ended(this.#end));
    if (typeof id !== 'string' || id === '' || [...id].length > 64 || /\p{Surrogate}/u.test(id)) {
      return Promise.reject(new AnteroomError('BAD_REQUEST', 'an id is a string of 1 to 64 characters'));
    }
    let frame;
    try {
      // Encoded only once: a retry sends the same text even if the body has changed since.
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
   * Gives the seat up and ends the connection. If it is disconnected at the moment, the
   * server cannot be told, and an occupied seat stays taken until its lease ends. A permit that
   * was not used yet is cancelled.
   * @returns {Promise<void>} resolves when the connection is closed, after 3 s at the latest
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
   * Shortens the delay before the next attempt to less than a second. An application calls
   * it when it learns in another way that the service answers again. A delay that the
   * server asked for is not shortened.
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
    // From here on the predecessor is not read: what it would still bring comes again
    // after JOINED. It stays open, so that the seat is transferred.
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
    // The new session took the seat over, unless our identity expired and we joined as
    // another user: then the old user still holds the old seat, and 1000 gives it up.
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
    // A room that was created anew does not know the message ids of the room before.
    if (!sameUser || renewed) {
      this.#idsKnown = false;
      this.#outbox.forget();
    }
    this.#me = { userId: frame.userId, sessionId: frame.sessionId };
    this.#userIds.add(frame.userId);
    this.#tell('open', 'Connected.');
    this.#emit('joined', { ...frame, rejoin, renewed });
    this.#emitOccupancy();
    this.#catchUp();
  }

  /** Resumes sending once the replay is read: it may hold echoes of waiting messages. */
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
    // This comes before duplicates are dropped: the answer to a retry is the entry of the
    // first delivery.
    if (own && frame.id) this.#outbox.echo(frame.id, frame, frame.from.userId === this.userId);
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
    // Joins and leaves may be among the lost entries, and a rejoin brings a new roster.
    // A room with presence `count` has no roster.
    const stale = gap.to > this.#log.rosterSeq && this.members.size > 0;
    if (stale && !this.#timer) this.#move(Math.random() * REFRESH_SPREAD_MS, 'Connected.');
  }

  #error({ code, detail, id }) {
    if (id === undefined) {
      this.#refusal = { code, detail };
      this.#emit('error', { code, detail, retrying: false });
      return;
    }
    // A message that no longer waits was answered already. Only its retry met a limit or
    // an outage, which nobody needs to know.
    const refused = this.#outbox.refuse(id, new AnteroomError(code, detail ?? code));
    if (refused) this.#emit('error', { code, detail, id, retrying: refused.retrying });
  }

  /** Gives the seat up: the browser may keep the page for hours, and an open socket would keep the seat. */
  #pageLeft() {
    if (this.#leaving || this.#state === 'closed') return;
    this.#stopDialing(1000);
    this.#link?.drop(1000);
    if (this.#link) this.#unlink();
    this.#tell('reconnecting', 'The page was left.', { delayMs: 0 });
  }

  #pageBack() {
    if (this.#state !== 'reconnecting' || this.#link || this.#timer) return;
    // A delay that the server asked for still applies; it also runs while the page is away.
    if (Date.now() < this.#earliest) this.#dialLater('The page is back.');
    else this.#dial();
  }

  /** Opens a second link after delayMs. The first is dropped when the second has joined. */
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
      // The room can be full while we hold a seat only if our identity expired and we came
      // as another user. Then the old seat is given up.
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
   * Dials without the permit. It was sent before and the answer was lost, so it may have
   * been confirmed; then a walk-in gets the user's own seat.
   */
  #dialWithoutPermit() {
    this.#permit = undefined;
    this.#permitShown = 0;
    this.#dial();
  }

  /** @param {number} [leastSeconds] the shortest delay, which the server asked for or needs */
  #dialLater(reason, leastSeconds = 0) {
    const now = Date.now();
    this.#earliest = Math.max(this.#earliest, now + leastSeconds * 1000);
    const delayMs = this.#earliest - now + fullJitter(this.#attempt++);
    this.#moveAt = now + delayMs;
    // While the identity was awaited, the link may have broken and set a timer.
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#dial(), delayMs);
    if (!this.#link) this.#tell('reconnecting', reason, { delayMs });
  }

  /**
   * Shortens our own delay before the next attempt to delayMs, because the network or the
   * service seems to be back.
   */
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

  /** Stops reading the link. */
  #unlink() {
    this.#link = null;
    this.#outbox.pause();
    if (Date.now() - this.#joinedAt > SOUND_MS) this.#attempt = 0;
  }

  /** @param {number} code the close code for the links that are not read */
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
