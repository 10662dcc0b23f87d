/**
 * Errors and close codes, as in the protocol's tables.
 */

/**
 * Names of the close codes that a room connection can end with. Most are the names that
 * the server sends as the close reason. The names of 1000 and of the codes that only
 * browsers and proxies use (1006, 1011, 1013) are our own.
 */
const CLOSE_NAMES = {
  1000: 'LEFT',
  1001: 'GOING_AWAY',
  1002: 'PROTOCOL_ERROR',
  1003: 'UNSUPPORTED',
  1006: 'LOST',
  1007: 'INVALID_TEXT',
  1009: 'TOO_BIG',
  1011: 'INTERNAL',
  1012: 'RESTART',
  1013: 'TRY_AGAIN_LATER',
  4400: 'BAD_REQUEST',
  4401: 'UNAUTHENTICATED',
  4403: 'FORBIDDEN',
  4404: 'ROOM_NOT_FOUND',
  4408: 'JOIN_TIMEOUT',
  4409: 'ROOM_FULL',
  4410: 'PERMIT_EXPIRED',
  4429: 'RATE_LIMITED',
  4440: 'REPLACED',
  4441: 'REMOVED',
  4442: 'ROOM_DELETED',
  4500: 'INTERNAL',
  4503: 'UNAVAILABLE',
  4504: 'LEASE_LOST',
  4508: 'SLOW_CONSUMER',
};

const CLOSE_WORDS = {
  LEFT: 'You left the room.',
  GOING_AWAY: 'The server is going away.',
  LOST: 'The connection was lost.',
  RESTART: 'The server is restarting.',
  TRY_AGAIN_LATER: 'The server asks to come back later.',
  TOO_BIG: 'A message was too large.',
  UNAUTHENTICATED: 'The identity was refused.',
  FORBIDDEN: 'Joining this room is not allowed.',
  ROOM_NOT_FOUND: 'There is no such room.',
  JOIN_TIMEOUT: 'Joining took too long.',
  ROOM_FULL: 'Every seat is taken.',
  PERMIT_EXPIRED: 'The reservation lapsed before it was used.',
  RATE_LIMITED: 'Too many messages were sent.',
  REPLACED: 'The seat was taken over from another tab or device.',
  REMOVED: 'You were removed from the room.',
  ROOM_DELETED: 'The room was deleted.',
  INTERNAL: 'The server failed.',
  UNAVAILABLE: 'The service cannot be reached just now.',
  LEASE_LOST: 'The server could not hold on to the seat.',
  SLOW_CONSUMER: 'This connection was too slow to keep up.',
};

const MAY_RETURN = new Set([1001, 1006, 1011, 1012, 1013]);

/**
 * Returns whether a client reconnects by itself after a close with this code.
 * @param {number} code WebSocket close code
 * @returns {boolean}
 */
export function mayReturn(code) {
  return MAY_RETURN.has(code) || (code >= 4500 && code <= 4599);
}

/**
 * Returns the name of a close code; `CLOSE_<code>` for an unknown one.
 * @param {number} code
 * @returns {string}
 */
export function closeName(code) {
  return CLOSE_NAMES[code] ?? `CLOSE_${code}`;
}

const CLOSE_CODES = Object.fromEntries(
  Object.entries(CLOSE_NAMES).filter(([code]) => code >= 4400).map(([code, name]) => [name, Number(code)]),
);

/**
 * Returns the close code that belongs to an error code; 4500 if it has none.
 * @param {string} name
 * @returns {number}
 */
export function closeCode(name) {
  return CLOSE_CODES[name] ?? CLOSE_CODES.INTERNAL;
}

/**
 * Says in a sentence why a connection ended.
 * @param {number} code
 * @returns {string}
 */
export function closeWords(code) {
  return CLOSE_WORDS[closeName(code)] ?? `The connection was closed (${code}).`;
}

/**
 * Returns the delay before attempt number `attempt` (from 0), with full jitter, so
 * that clients that lost a server at the same instant do not all come back at once.
 * @param {number} attempt
 * @returns {number} milliseconds, 0 to 500 at first, doubling to at most 20,000
 */
export function fullJitter(attempt) {
  return Math.random() * Math.min(20_000, 500 * 2 ** Math.min(attempt, 10));
}

/**
 * The error with which the client's calls and promises reject.
 *
 * `code` is one of the protocol's (BAD_REQUEST, UNAUTHENTICATED, FORBIDDEN,
 * ROOM_NOT_FOUND, ROOM_EXISTS, ROOM_FULL, PERMIT_EXPIRED, RATE_LIMITED,
 * UNAVAILABLE, INTERNAL) or one of the client's own:
 * - `CLOSED`: the connection ended for good before a message was sent; the
 *   close code's name is in `detail`
 * - `UNCONFIRMED`: a message was sent and may have been delivered, and sending it
 *   again could deliver it twice: the connection ended for good before the echo, the
 *   server answered INTERNAL, no answer came in time, or after a reconnection the
 *   room or the user was a new one, for which the message's id means nothing
 */
export class AnteroomError extends Error {
  /**
   * @param {string} code
   * @param {string} detail what happened, for people
   * @param {{status?: number, retryAfterSeconds?: number}} [more] the HTTP
   *   status (0 when no answer came) and the server's Retry-After
   */
  constructor(code, detail, { status = 0, retryAfterSeconds } = {}) {
    super(`${code}: ${detail}`);
    this.name = 'AnteroomError';
    this.code = code;
    this.detail = detail;
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}
