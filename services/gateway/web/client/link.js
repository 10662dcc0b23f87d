// Joining includes the TCP and TLS handshakes, which a browser would wait for
// far longer than a person does.
const JOIN_DEADLINE_MS = 15_000;
const QUIET_MS = 30_000;
const PONG_DEADLINE_MS = 10_000;
const CHANGED_DEADLINE_MS = 4_000;

/**
 * The code a link is given up with when the seat shall stay: 1000 would free
 * it at once.
 */
export const KEEP_SEAT = 4000;

/**
 * One WebSocket: text frames in and out as objects, and a watch over silence.
 * `close` is told exactly once, unless the link was given up by `drop`.
 */
export class Link {
  #socket;
  #handlers;
  #timer;
  #heardAt = 0;
  #ended = false;

  /**
   * @param {string} url
   * @param {{open: () => void, frame: (frame: object) => void,
   *   close: (code: number) => void}} handlers
   */
  constructor(url, handlers) {
    this.#handlers = handlers;
    this.#socket = new WebSocket(url);
    this.#socket.onopen = () => {
      if (!this.#ended) handlers.open();
    };
    this.#socket.onmessage = (event) => this.#receive(event.data);
    this.#socket.onclose = (event) => this.#end(event.code);
    this.#timer = setTimeout(() => this.#lost(), JOIN_DEADLINE_MS);
  }

  /** Sends a frame; one that the socket cannot take any more is dropped. */
  send(frame) {
    this.sendText(JSON.stringify(frame));
  }

  /** The same for a frame that is text already. */
  sendText(text) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(text);
  }

  /** The join is confirmed: from here on silence is watched. */
  watch() {
    clearTimeout(this.#timer);
    this.#heardAt = Date.now();
    this.#timer = setTimeout(() => this.#checkQuiet(), QUIET_MS);
  }

  /**
   * Gives the link up without a word to its handlers.
   * @param {number} code 1000 frees the seat, KEEP_SEAT leaves it to its lease
   */
  drop(code) {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#socket.close(code);
  }

  #receive(data) {
    if (this.#ended) return;
    this.#heardAt = Date.now();
    const frame = parse(data);
    if (frame) this.#handlers.frame(frame);
  }

  #checkQuiet() {
    const left = QUIET_MS - (Date.now() - this.#heardAt);
    if (left > 0) {
      this.#timer = setTimeout(() => this.#checkQuiet(), left);
      return;
    }
    this.#ask(PONG_DEADLINE_MS);
  }

  /** Asks now whether somebody answers, where the network may be another one. */
  check() {
    clearTimeout(this.#timer);
    this.#ask(CHANGED_DEADLINE_MS);
  }

  #ask(deadlineMs) {
    // Counted from the PING, not from the last frame: a laptop that slept
    // finds its timers late, and its connection perhaps alive.
    const pingedAt = Date.now();
    this.send({ type: 'PING' });
    this.#timer = setTimeout(() => {
      if (this.#heardAt < pingedAt) this.#lost();
      else this.#checkQuiet();
    }, deadlineMs);
  }

  #lost() {
    this.#socket.close(KEEP_SEAT);
    this.#end(1006);
  }

  #end(code) {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#handlers.close(code);
  }
}

function parse(data) {
  if (typeof data !== 'string') return null;
  try {
    const frame = JSON.parse(data);
    return typeof frame?.type === 'string' ? frame : null;
  } catch {
    return null;
  }
}
