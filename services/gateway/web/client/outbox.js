import { AnteroomError } from './codes.js';

// The server recognises an id for 2 minutes. A retry after 110 s might arrive later
// than that, and the message would be delivered twice.
const RETRY_WINDOW_MS = 110_000;
// How long nothing is sent after a temporary refusal (RATE_LIMITED, UNAVAILABLE).
const HOLD_MS = 1_000;
// The same for RATE_LIMITED while the server is UNAVAILABLE. If the limit is low, the two
// refusals alternate, and 10 s of RATE_LIMITED without a pause of 3 s end the connection.
const PROBED_HOLD_MS = 5_000;
// The time between messages after RATE_LIMITED: 13 a second, under the 20 that
// the server allows by default. It doubles when that is still too fast.
const PACE_MS = 75;
const PACE_MAX_MS = 5_000;
// How long the time between messages stays as it is without another RATE_LIMITED. Then it
// is halved, and below PACE_MS it becomes 0. Otherwise a user who goes on talking would
// never catch up.
const PACE_MEMORY_MS = 10_000;
const MAX_WAITING = 1_000;
// How many echoes are kept, and for how long, to answer an application that sends an id
// again: for 2 minutes the server drops a repetition, and does not answer it if this
// connection has carried its entry.
const MAX_ECHOED = 100;
const ECHO_MEMORY_MS = 120_000;
// Below the server's burst of 40, so that a backlog is not refused.
const MAX_IN_FLIGHT = 32;

/**
 * Messages that have not been echoed yet, in the order in which they were added. Each is
 * sent again with the same id until it is echoed, refused for good, or so old that a
 * retry could deliver it twice.
 */
export class Outbox {
  /** @type {Map<string, object>} id → {id, frame, inFlight, sentAt, unsure, fate, resolve, reject} */
  #waiting = new Map();
  // id → {frame, at}, oldest first.
  #echoed = new Map();
  #transmit;
  #open = false;
  // 0 for no limit.
  #paceMs = 0;
  #pacedAt = 0;
  #held = false;
  // After UNAVAILABLE only one message at a time is sent, until an echo comes.
  #probing = false;
  #timer = null;
  #expiry = null;

  /** @param {(frame: string) => void} transmit */
  constructor(transmit) {
    this.#transmit = transmit;
  }

  /**
   * @param {string} id
   * @param {string} frame
   * @returns {Promise<object>} resolves with the echoed MESSAGE frame; for an id that waits
   *   already, the promise of that message; for one whose echo is kept, resolved already
   */
  add(id, frame) {
    const same = this.#waiting.get(id);
    if (same) return same.fate;
    const echoed = this.#echoed.get(id);
    if (echoed && Date.now() - echoed.at < ECHO_MEMORY_MS) return Promise.resolve(echoed.frame);
    if (this.#waiting.size >= MAX_WAITING) {
      const full = `${MAX_WAITING} messages are waiting already`;
      return Promise.reject(new AnteroomError('RATE_LIMITED', full));
    }
    const message = { id, frame, inFlight: false, sentAt: null, unsure: false };
    message.fate = new Promise((resolve, reject) => Object.assign(message, { resolve, reject }));
    this.#waiting.set(id, message);
    this.#pump();
    return message.fate;
  }

  /**
   * Takes a MESSAGE of ours that came back.
   * @param {boolean} keep whether the present user sent it, and so may send its id again
   */
  echo(id, frame, keep) {
    if (keep) this.#keepEcho(id, frame);
    const message = this.#waiting.get(id);
    if (!message) return;
    this.#waiting.delete(id);
    this.#probing = false;
    message.resolve(frame);
    this.#pump();
  }

  /**
   * Takes an ERROR about one message.
   * @param {string} id
   * @param {AnteroomError} error
   * @returns {?{retrying: boolean}} whether the message is sent again automatically;
   *   null if it was answered already
   */
  refuse(id, error) {
    const message = this.#waiting.get(id);
    if (!message) return null;
    if (error.code !== 'RATE_LIMITED' && error.code !== 'UNAVAILABLE') {
      // INTERNAL does not say whether the message was delivered.
      this.#giveUp(message, error.code === 'INTERNAL' ? unconfirmed() : error);
      this.#pump();
      return { retrying: false };
    }
    message.inFlight = false;
    // With RATE_LIMITED the message was certainly not accepted. With UNAVAILABLE the store
    // may have accepted it, and only the answer was lost.
    if (error.code === 'UNAVAILABLE') message.unsure = true;
    else if (!message.unsure) message.sentAt = null;
    this.#hold(error.code);
    return { retrying: true };
  }

  /**
   * Starts sending: the connection has joined and read what it missed.
   * @param {boolean} known whether the server would recognise the ids that were sent before
   */
  resume(known) {
    if (this.#open) return;
    this.#open = true;
    if (!known) this.#disown();
    this.#pump();
  }

  /** The server knows none of the ids any more: the room or the user is another one. */
  forget() {
    this.#echoed.clear();
  }

  /** Stops sending: the connection is gone. Messages in flight may or may not have arrived. */
  pause() {
    this.#open = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#expiry);
    this.#timer = this.#expiry = null;
    this.#held = false;
    for (const message of this.#waiting.values()) {
      if (message.inFlight) message.unsure = true;
      message.inFlight = false;
    }
  }

  /**
   * Rejects every message: the connection ended for good.
   * @param {AnteroomError} error for the messages that certainly did not arrive
   */
  close(error) {
    this.pause();
    for (const message of this.#waiting.values()) this.#giveUp(message, message.sentAt === null ? error : unconfirmed());
  }

  #pump() {
    if (!this.#open || this.#timer !== null) return;
    this.#expire();
    this.#speedUp();
    let inFlight = 0;
    for (const message of this.#waiting.values()) if (message.inFlight) inFlight++;
    for (const message of this.#waiting.values()) {
      if (inFlight >= (this.#probing ? 1 : MAX_IN_FLIGHT)) return;
      if (message.inFlight) continue;
      message.inFlight = true;
      inFlight++;
      message.sentAt ??= Date.now();
      this.#watch();
      this.#transmit(message.frame);
      if (this.#paceMs > 0) return this.#wait(this.#paceMs);
    }
  }

  /** Gives up messages that are too old to be sent again, including those that got no answer. */
  #expire() {
    for (const message of this.#waiting.values()) {
      if (message.sentAt !== null && Date.now() - message.sentAt >= RETRY_WINDOW_MS) this.#giveUp(message, unconfirmed());
    }
  }

  /** Sets a timer for when the oldest message becomes too old. */
  #watch() {
    if (this.#expiry !== null) return;
    const sent = [...this.#waiting.values()].map(({ sentAt }) => sentAt).filter((at) => at !== null);
    if (sent.length === 0) return;
    this.#expiry = setTimeout(() => {
      this.#expiry = null;
      this.#expire();
      this.#watch();
      this.#pump();
    }, Math.min(...sent) + RETRY_WINDOW_MS - Date.now());
  }

  #hold(code) {
    if (code === 'UNAVAILABLE') this.#probing = true;
    // A burst is refused frame by frame; only its first refusal counts.
    if (this.#held) return;
    clearTimeout(this.#timer);
    this.#held = true;
    if (code === 'RATE_LIMITED') this.#slowDown();
    const holdMs = this.#probing && code === 'RATE_LIMITED' ? PROBED_HOLD_MS : HOLD_MS;
    this.#wait(holdMs * (0.75 + Math.random() / 2));
  }

  #slowDown() {
    this.#paceMs = Math.min(PACE_MAX_MS, Math.max(PACE_MS, 2 * this.#paceMs));
    this.#pacedAt = Date.now();
  }

  /** Undoes what slowDown did, step by step. */
  #speedUp() {
    for (; this.#paceMs > 0 && Date.now() - this.#pacedAt > PACE_MEMORY_MS; this.#pacedAt += PACE_MEMORY_MS) {
      this.#paceMs = this.#paceMs / 2 < PACE_MS ? 0 : this.#paceMs / 2;
    }
  }

  #wait(ms) {
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#held = false;
      this.#pump();
    }, ms);
  }

  #keepEcho(id, frame) {
    this.#echoed.delete(id); // so that it becomes the newest
    this.#echoed.set(id, { frame, at: Date.now() });
    if (this.#echoed.size > MAX_ECHOED) this.#echoed.delete(this.#echoed.keys().next().value);
  }

  #disown() {
    for (const message of this.#waiting.values()) {
      if (message.unsure) this.#giveUp(message, unconfirmed());
    }
  }

  #giveUp(message, error) {
    this.#waiting.delete(message.id);
    message.reject(error);
  }
}

function unconfirmed() {
  return new AnteroomError('UNCONFIRMED', 'it may or may not have been delivered');
}

/**
 * Returns a new message id: a random UUID. `crypto.randomUUID` is missing on http
 * origins other than localhost.
 * @returns {string}
 */
export function messageId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
