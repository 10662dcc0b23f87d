import { messageId } from './anteroom.js';
import { byId, element, loadNickname, nameOf, reconcile, setText, titleOf } from './dom.js';
import { Messages } from './messages.js';
import { pollDelay } from './poll.js';
import { drawSeats } from './seats.js';
import { ending } from './words.js';

// Reservations are not in the room's log, so they are polled at this interval.
const ROOM_POLL_MS = 4_000;
const MAX_NAMES = 200;

/** The view of one room, from reserving a seat to giving it up. */
export class RoomView {
  #anteroom;
  #exited;
  #messages = new Messages();
  #connection = null;
  #roomId = null;
  // Where the last connection stopped, for the next connection to the same room.
  #after;
  // Counts the visits, so that a late answer is not used for the next room.
  #visit = 0;
  #reserved = 0;
  // Whether to poll the room: false outside a room, and after an ending with no way back.
  #polling = false;
  #pollTimer = null;
  #pollFailures = 0;
  // Whether the last poll got no answer.
  #silent = false;
  #countdown = null;

  /**
   * @param {import('./anteroom.js').Anteroom} anteroom
   * @param {() => void} exited called after the member left with the button
   */
  constructor(anteroom, exited) {
    this.#anteroom = anteroom;
    this.#exited = exited;
    byId('leave').addEventListener('click', () => this.#leave());
    byId('notice-again').addEventListener('click', () => {
      // The button is about to disappear, and the focus would be lost with it.
      byId('room-name').focus();
      this.#takeSeat();
    });
    byId('copy-link').addEventListener('click', (event) => copyLink(event.target));
    byId('message-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit(byId('message-input'));
    });
    document.addEventListener('visibilitychange', () => this.#pollRoom());
  }

  /** @param {string} roomId */
  enter(roomId) {
    this.#roomId = roomId;
    this.#after = undefined;
    this.#reserved = 0;
    this.#pollFailures = 0;
    this.#silent = false;
    delete byId('room').dataset.joined;
    this.#messages.clear();
    this.#showNobody();
    setText(byId('room-code'), roomId);
    this.#showTitle(roomId);
    byId('room-name').focus();
    this.#takeSeat();
  }

  /** Leaves the room, if in one, without waiting until the seat is given up. */
  exit() {
    this.#visit++;
    this.#polling = false;
    clearTimeout(this.#pollTimer);
    this.#showCountdown(0);
    const connection = this.#connection;
    this.#connection = null;
    this.#roomId = null;
    return connection?.leave();
  }

  async #leave() {
    const visit = this.#visit;
    byId('leave').disabled = true;
    await this.#connection?.leave();
    if (visit === this.#visit) this.#exited();
  }

  /**
   * Reserves a seat and joins. With `again`, one permit or identity that lapsed is
   * replaced without telling the user.
   */
  async #takeSeat({ again = true } = {}) {
    const visit = ++this.#visit;
    const roomId = this.#roomId;
    this.#after = this.#connection?.position ?? this.#after;
    this.#connection = null;
    byId('notice').hidden = true;
    byId('leave').disabled = false;
    this.#showState('connecting', 'Reserving a seat');
    this.#polling = true;
    this.#pollRoom();
    try {
      const permit = await this.#anteroom.reserve(roomId);
      if (visit === this.#visit) this.#join(permit, again);
      // A later visit to the same room has got the same permit, which must not be cancelled.
      else if (roomId !== this.#roomId) await this.#anteroom.cancel(permit);
    } catch (error) {
      if (visit === this.#visit) this.#showEnding(error.code, error.detail);
    }
  }

  #join({ permit }, again) {
    const connection = this.#anteroom.join(this.#roomId, { permit, after: this.#after, nickname: loadNickname() });
    this.#connection = connection;
    const on = (type, handle) => {
      connection.addEventListener(type, ({ detail }) => {
        if (connection === this.#connection) handle(detail);
      });
    };
    on('state', ({ state, reason, delayMs }) => this.#showState(state, reason, delayMs));
    on('joined', (detail) => this.#joined(detail));
    on('occupancy', () => this.#showSeats());
    on('message', (detail) => this.#messages.message(detail));
    on('memberjoined', (detail) => this.#showMove(() => this.#messages.memberJoined(detail)));
    on('memberleft', (detail) => this.#showMove(() => this.#messages.memberLeft(detail)));
    on('gap', (detail) => this.#messages.gap(detail));
    on('error', ({ id, detail }) => id === undefined && this.#messages.note(`The server says: ${detail}`));
    on('closed', (detail) => this.#closed(detail, again));
  }

  #joined({ rejoin, renewed }) {
    if (renewed) this.#messages.note('This room was opened anew; what was said before is gone.');
    else if (!rejoin) this.#messages.note('You are in the room.');
    byId('room').dataset.joined = '';
    this.#showMembers();
    byId('message-input').disabled = byId('send').disabled = false;
    // Only if the focus is still where enter() put it: the user may be busy elsewhere.
    if (document.activeElement === byId('room-name')) byId('message-input').focus({ preventScroll: true });
    this.#pollRoom();
  }

  #closed({ name, detail, joined }, again) {
    if (name === 'LEFT') return;
    const mend = name === 'PERMIT_EXPIRED' || name === 'UNAUTHENTICATED';
    if (again && mend && !joined) this.#takeSeat({ again: false });
    else this.#showEnding(name, detail);
  }

  #submit(input) {
    const body = input.value.trim();
    if (body === '' || !this.#send(body)) return;
    input.value = '';
    input.focus(); // the button may have the focus
  }

  /** @returns {boolean} false if there is no connection and nothing was done */
  #send(body) {
    const connection = this.#connection;
    if (!connection || connection.state === 'closed') return false;
    const id = messageId();
    this.#messages.pend(id, body);
    connection.send(body, { id }).catch((error) => {
      this.#messages.fail(id, error, () => this.#send(body));
    });
    return true;
  }

  async #pollRoom() {
    clearTimeout(this.#pollTimer);
    if (!this.#polling || document.hidden) return;
    const visit = this.#visit;
    let failure;
    try {
      const room = await this.#anteroom.getRoom(this.#roomId);
      if (visit !== this.#visit || !this.#polling) return;
      this.#reserved = room.reserved;
      this.#showTitle(titleOf(room));
      this.#showSeats(room);
    } catch (error) {
      // Not shown: the connection's own events say better what is wrong.
      failure = error;
    }
    if (visit !== this.#visit) return;
    // Only after a poll without an answer: if HTTP works and WebSockets do not, the
    // connection's backoff must stay.
    const answered = failure === undefined || failure.code === 'ROOM_NOT_FOUND';
    if (this.#silent && answered) this.#connection?.hurry();
    this.#silent = failure?.code === 'UNAVAILABLE';
    this.#pollFailures = failure ? this.#pollFailures + 1 : 0;
    clearTimeout(this.#pollTimer);
    this.#pollTimer = setTimeout(() => this.#pollRoom(), pollDelay(ROOM_POLL_MS, this.#pollFailures, failure));
  }

  /** @param {{capacity: number, occupied: number}} [polled] used while the connection has nothing newer */
  #showSeats(polled) {
    const live = this.#connection?.state === 'open' && this.#connection.capacity > 0;
    const { capacity, occupied } = live || !polled ? this.#connection ?? {} : polled;
    if (!capacity) return;
    drawSeats(byId('room-seats'), { capacity, occupied, reserved: Math.min(this.#reserved, capacity - occupied) });
  }

  #showMove(draw) {
    draw();
    this.#showMembers();
  }

  #showMembers() {
    const { members, userId } = this.#connection;
    const own = (member) => member.userId === userId;
    const sorted = [...members.values()].sort((a, b) => own(b) - own(a) || nameOf(a).localeCompare(nameOf(b)));
    reconcile(byId('members'), sorted.slice(0, MAX_NAMES), {
      key: (member) => member.userId,
      make: () => element('li', {}, element('span', { class: 'avatar', 'aria-hidden': 'true' }), element('span', { class: 'name' }), element('span', { class: 'you' })),
      update: (node, member) => showMember(node, member, own(member)),
    });
    const hint = byId('members-hint');
    hint.hidden = members.has(userId) && members.size <= MAX_NAMES;
    const more = `and ${(members.size - MAX_NAMES).toLocaleString()} more`;
    setText(hint, members.has(userId) ? more : 'This room counts its members without naming them.');
  }

  /** Empties the view: before the first answer, and once the room is gone. */
  #showNobody() {
    byId('members').replaceChildren();
    byId('members-hint').hidden = true;
    byId('room-seats').replaceChildren();
    delete byId('room-seats').dataset.kind;
  }

  #showTitle(title) {
    setText(byId('room-name'), title);
    const untitled = title === this.#roomId;
    byId('room-name').classList.toggle('untitled', untitled);
    byId('room-code').hidden = untitled; // the id is shown as the name already
    document.title = `${title} · Anteroom`;
  }

  #showState(state, reason, delayMs = 0) {
    const words = { open: 'Live', connecting: 'Joining', reconnecting: 'Reconnecting', closed: 'Not connected' };
    const node = byId('state');
    node.dataset.state = state;
    node.title = reason;
    setText(byId('state-words'), words[state]);
    this.#showCountdown(delayMs);
    if (state === 'closed' || (state === 'connecting' && !this.#connection)) {
      byId('message-input').disabled = byId('send').disabled = true;
    }
  }

  /**
   * Shows the countdown in an element of its own: screen readers read the words aloud, and
   * must not read a new number each second.
   */
  #showCountdown(delayMs) {
    clearInterval(this.#countdown);
    const until = Date.now() + delayMs;
    const draw = () => {
      const seconds = Math.ceil((until - Date.now()) / 1000);
      if (seconds <= 0) clearInterval(this.#countdown);
      setText(byId('state-countdown'), seconds > 0 ? `in ${seconds} s` : '');
    };
    draw();
    if (delayMs > 0) this.#countdown = setInterval(draw, 250);
  }

  #showEnding(code, detail) {
    const { title, text, again } = ending(code, detail);
    if (again === null) this.#polling = false;
    if (code === 'ROOM_NOT_FOUND' || code === 'ROOM_DELETED') this.#showNobody();
    this.#showState('closed', title);
    setText(byId('state-words'), code === 'REPLACED' ? 'Replaced' : 'Not connected');
    setText(byId('notice-title'), title);
    setText(byId('notice-text'), text);
    const button = byId('notice-again');
    button.hidden = again === null;
    setText(button, again ?? '');
    byId('leave').disabled = true;
    byId('notice').dataset.code = code;
    byId('notice').hidden = false;
    // Not the button: a user who is typing would press it with the next space.
    byId('notice-title').focus();
  }
}

function showMember(node, member, own) {
  const name = nameOf(member);
  node.toggleAttribute('data-self', own);
  node.dataset.userId = member.userId;
  setText(node.querySelector('.avatar'), [...name][0].toUpperCase());
  setText(node.querySelector('.name'), name);
  node.querySelector('.name').title = name; // a long name is cut off on the page
  setText(node.querySelector('.you'), own ? 'you' : '');
}

async function copyLink(button) {
  try {
    await navigator.clipboard.writeText(location.href);
    setText(button, 'Copied');
  } catch {
    // Without https there is no clipboard API. The address bar has the same link.
    setText(button, 'Copy it from the address bar');
  }
  setTimeout(() => setText(button, 'Copy link'), 2_000);
}
