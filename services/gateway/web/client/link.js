// Time to join, including the TCP and TLS handshakes. A browser would wait for those
// far longer than a person does.
const JOIN_DEADLINE_MS = 15_000;
const QUIET_MS = 30_000;
const PONG_DEADLINE_MS = 10_000;
const CHANGED_DEADLINE_MS = 4_000;

/**
 * The close code for a link whose seat should be kept; 1000 would free the seat at once.
 */
export const KEEP_SEAT = 4000;

/**
 * One WebSocket. It sends and receives frames as objects, and notices when the server
 * falls silent. The handler `close` is called exactly once, or never after `drop`.
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

  /** Sends a frame. Drops it if the socket is not open. */
  send(frame) {
    this.sendText(JSON.stringify(frame));
  }

  /** Does the same with a frame that is encoded already. */
  sendText(text) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(text);
  }

  /** Starts to watch for silence, now that the join is confirmed. */
  watch() {
    clearTimeout(this.#timer);
    this.#heardAt = Date.now();
    this.#timer = setTimeout(() => this.#checkQuiet(), QUIET_MS);
  }

  /**
   * Closes the link without calling its handlers.
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

  /** Checks at once whether the server still answers, because the network may have changed. */
  check() {
    clearTimeout(this.#timer);
    this.#ask(CHANGED_DEADLINE_MS);
  }

  #ask(deadlineMs) {
    // The deadline counts from the PING and not from the last frame: after a laptop has
    // slept, its timers fire late, but the connection may be alive.
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
