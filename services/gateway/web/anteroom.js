/**
 * Anteroom's browser client: rooms with a fixed number of seats. An ES module
 * without dependencies.
 *
 *     import { Anteroom } from '/anteroom.js';
 *
 *     const anteroom = new Anteroom();
 *     const { roomId } = await anteroom.createRoom({ title: 'Tea', capacity: 4 });
 *     const { permit } = await anteroom.reserve(roomId);      // a seat for 15 s
 *     const room = anteroom.join(roomId, { permit, nickname: 'Ada' });
 *     room.addEventListener('message', ({ detail }) => console.log(detail.body));
 *     await room.send('Hello');                                // resolves with its echo
 *     await room.leave();
 *
 * A page of another origin imports the module by its full URL and passes `baseUrl`;
 * the server's ALLOWED_ORIGINS must include that origin.
 *
 * A RoomConnection reconnects by itself after close codes 4500–4599, 1001, 1006,
 * 1011, 1012 and 1013, and continues the log where it stopped. The delay is random:
 * at first at most 0.5 s, and the maximum doubles with each attempt up to 20 s.
 * After any other code the connection ends with a `closed` event, and the
 * application decides what to do next. A message that was in flight at the end
 * fails with UNCONFIRMED: it may have been delivered. If it was, a later connection
 * that joins with `after` receives it.
 *
 * @module anteroom
 */
import { AnteroomError } from './client/codes.js';
import { RoomConnection } from './client/connection.js';
import { messageId } from './client/outbox.js';

export { AnteroomError, RoomConnection, messageId };

const TIMEOUT_MS = 10_000;
// An identity with less time than this until it expires is replaced before it is used.
const EXPIRY_MARGIN_MS = 60_000;
// A longer delay is cut to this: a timer of more than 24.8 days fires at once, so the
// caller would retry without a pause.
const RETRY_AFTER_MAX_SECONDS = 86_400;

/**
 * @typedef {object} Room
 * @property {string} roomId
 * @property {string} epoch a new one each time a room with this id is created
 * @property {string} title
 * @property {number} capacity seats
 * @property {number} reserved seats held by permits
 * @property {number} occupied seats held by members
 * @property {'full'|'count'} presence
 * @property {string} createTime RFC 3339
 */

/**
 * @typedef {object} Permit
 * @property {string} permit
 * @property {string} roomId
 * @property {string} userId
 * @property {string} expireTime RFC 3339
 * @property {number} ttlSeconds how long the permit holds the seat
 * @property {string} url path of a WebSocket that joins with this permit when it opens
 */

/**
 * A client of the service that acts as one user. When a call to the service fails,
 * the method rejects with an AnteroomError; its code is UNAVAILABLE also if the
 * server did not answer.
 */
export class Anteroom {
  /** The largest frame that the server accepts, in bytes; 16 KiB by default. */
  maxFrameBytes;
  #base;
  #storage;
  #key;
  #made = null;

  /**
   * @param {object} [options]
   * @param {string} [options.baseUrl] origin of the service (a path is ignored); the page's own origin by default
   * @param {Storage} [options.storage] where the identity is kept; sessionStorage by default
   * @param {string} [options.storageKey]
   * @param {number} [options.maxFrameBytes] the server's MAX_FRAME_BYTES
   */
  constructor({
    baseUrl = globalThis.location?.origin,
    storage,
    storageKey = 'anteroom.identity',
    maxFrameBytes = 16_384,
  } = {}) {
    this.#base = new URL(baseUrl);
    this.#storage = storage ?? browserStorage();
    this.#key = storageKey;
    this.maxFrameBytes = maxFrameBytes;
  }

  /**
   * Returns the identity of this tab. Gets a new one from the server if there is none
   * or it is about to expire.
   * @returns {Promise<{userId: string, identity: string}>}
   */
  async identity() {
    const kept = this.#kept();
    if (kept) return kept;
    this.#made ??= this.#makeIdentity().finally(() => { this.#made = null; });
    return this.#made;
  }

  /**
   * Uses an identity that was issued elsewhere: a JWT that the server is configured to trust.
   * @param {{userId: string, identity: string, expireTime?: string}} identity
   */
  keepIdentity({ userId, identity, expireTime }) {
    const until = expireTime ? Date.parse(expireTime) - EXPIRY_MARGIN_MS : Infinity;
    // If a new identity seems to have expired already, this machine's clock is wrong.
    // It is then used until the server refuses it.
    const renewAt = until > Date.now() && Number.isFinite(until) ? until : null;
    this.#storage.setItem(this.#key, JSON.stringify({ userId, identity, renewAt }));
  }

  /** Drops the identity. The next call that needs one is made as a new user. */
  forgetIdentity() {
    this.#storage.removeItem(this.#key);
  }

  /**
   * @param {{roomId?: string, title?: string, capacity: number, presence?: 'full'|'count',
   *   emptyTimeoutSeconds?: number, departureTimeoutSeconds?: number}} room
   * @returns {Promise<Room>} rejects with BAD_REQUEST, ROOM_EXISTS
   */
  createRoom(room) {
    return this.#call('POST', '/v1/rooms', { body: room });
  }

  /**
   * @param {string} roomId
   * @returns {Promise<Room>} rejects with ROOM_NOT_FOUND
   */
  async getRoom(roomId) {
    return this.#call('GET', `/v1/rooms/${segment(roomId)}`);
  }

  /**
   * Returns a page of the list of rooms, newest first.
   * @param {{pageSize?: number, pageToken?: string}} [page] pageSize 1–100, 20 by default
   * @returns {Promise<{rooms: Room[], nextPageToken: string}>}
   */
  async listRooms({ pageSize, pageToken } = {}) {
    const query = new URLSearchParams();
    if (pageSize) query.set('pageSize', String(pageSize));
    if (pageToken) query.set('pageToken', pageToken);
    const page = await this.#call('GET', `/v1/rooms?${query}`);
    return { rooms: page.rooms ?? [], nextPageToken: page.nextPageToken ?? '' };
  }

  /**
   * Reserves a seat. A user who already holds a seat or a permit of the room gets a
   * permit for that same seat.
   * @param {string} roomId
   * @returns {Promise<Permit>} rejects with ROOM_FULL, ROOM_NOT_FOUND
   */
  async reserve(roomId) {
    return this.#call('POST', `/v1/rooms/${segment(roomId)}/permits`, { authorized: true });
  }

  /**
   * Gives a reserved seat back. It is not an error if the permit was used or has lapsed.
   * @param {Permit} permit
   * @returns {Promise<void>}
   */
  async cancel({ roomId, permit }) {
    const path = `/v1/rooms/${segment(roomId)}/permits/${segment(permit)}`;
    return this.#call('DELETE', path, { authorized: true });
  }

  /**
   * Joins a room and stays in it, reconnecting when needed, until `leave()` is called or
   * the connection ends with a code after which it must not come back.
   * @param {string} roomId
   * @param {object} [options]
   * @param {string} [options.nickname] at most 40 characters
   * @param {string} [options.permit] from `reserve`; without it, the join takes the user's
   *   own seat or else any free one
   * @param {{epoch: string, seq: number}} [options.after] `position` of an
   *   earlier connection, to get what was missed since
   * @returns {RoomConnection} not yet joined; its events report what happens
   */
  join(roomId, options) {
    return new RoomConnection(this, roomId, options);
  }

  /** The URL of the WebSocket. */
  socketUrl() {
    const url = new URL('/chat', this.#base);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    return url.href;
  }

  #kept() {
    try {
      const kept = JSON.parse(this.#storage.getItem(this.#key));
      if (!kept?.identity || (kept.renewAt !== null && Date.now() > kept.renewAt)) return null;
      return kept;
    } catch {
      return null;
    }
  }

  async #makeIdentity() {
    const made = await this.#call('POST', '/v1/identities', { body: {} });
    this.keepIdentity(made);
    return made;
  }

  async #call(method, path, { body, authorized = false } = {}) {
    const headers = { Accept: 'application/json' };
    if (body) headers['Content-Type'] = 'application/json';
    if (!authorized) return this.#request(method, path, headers, body);
    const { identity } = await this.identity();
    try {
      return await this.#request(method, path, bearer(headers, identity), body);
    } catch (error) {
      if (error.code !== 'UNAUTHENTICATED') throw error;
      this.forgetIdentity();
      const renewed = await this.identity();
      return this.#request(method, path, bearer(headers, renewed.identity), body);
    }
  }

  async #request(method, path, headers, body) {
    let response;
    let answer;
    let text;
    try {
      text = body && JSON.stringify(body);
    } catch (error) {
      throw new AnteroomError('BAD_REQUEST', error.message);
    }
    try {
      response = await fetch(new URL(path, this.#base), {
        method,
        headers,
        body: text,
        cache: 'no-store',
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      answer = await response.text();
    } catch {
      throw new AnteroomError('UNAVAILABLE', 'the server did not answer');
    }
    const json = parsed(answer);
    if (!response.ok) throw problem(response, json);
    if (response.status === 204) return undefined;
    // The page of a captive portal or a proxy.
    if (typeof json !== 'object' || json === null) throw new AnteroomError('UNAVAILABLE', 'the answer is no JSON object');
    return json;
  }
}

/**
 * Escapes an id as one segment of a path. It refuses ids that would name another path
 * or cannot be escaped; the service never makes such ids.
 */
function segment(id) {
  if (typeof id !== 'string' || ['', '.', '..'].includes(id) || /\p{Surrogate}/u.test(id)) {
    // Some values, such as symbols, cannot be put into a string.
    const named = typeof id === 'string' ? `"${id}"` : `a value of type ${typeof id}`;
    throw new AnteroomError('BAD_REQUEST', `${named} is no id`);
  }
  return encodeURIComponent(id);
}

function bearer(headers, identity) {
  return { ...headers, Authorization: `Bearer ${identity}` };
}

function parsed(text) {
  try {
    return text === '' ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

// For the answers of a proxy, which have no `code`.
const CODES_BY_STATUS = { 400: 'BAD_REQUEST', 401: 'UNAUTHENTICATED', 403: 'FORBIDDEN', 429: 'RATE_LIMITED', 502: 'UNAVAILABLE', 503: 'UNAVAILABLE', 504: 'UNAVAILABLE' };

function problem(response, answer) {
  const code = answer?.code ?? CODES_BY_STATUS[response.status] ?? 'INTERNAL';
  const detail = answer?.detail ?? answer?.title ?? `the server answered ${response.status}`;
  const seconds = Number(response.headers.get('Retry-After') ?? NaN);
  return new AnteroomError(code, detail, {
    status: response.status,
    retryAfterSeconds: Number.isFinite(seconds) ? Math.min(seconds, RETRY_AFTER_MAX_SECONDS) : undefined,
  });
}

/** Uses sessionStorage, and memory for values that it does not take: it may be disabled or full. */
function browserStorage() {
  const values = new Map();
  const attempt = (use) => {
    try {
      return use(globalThis.sessionStorage) ?? null;
    } catch {
      return null;
    }
  };
  return {
    getItem: (key) => values.get(key) ?? attempt((kept) => kept.getItem(key)),
    setItem(key, value) {
      values.set(key, value);
      attempt((kept) => {
        kept.setItem(key, value);
        values.delete(key); // so that getItem reads what sessionStorage has now
      });
    },
    removeItem(key) {
      values.delete(key);
      attempt((kept) => kept.removeItem(key));
    },
  };
}
