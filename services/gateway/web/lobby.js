import { byId, element, holdName, loadNickname, reconcile, saveNickname, setText, titleOf } from './dom.js';
import { pollDelay } from './poll.js';
import { drawSeats } from './seats.js';
import { createFailure } from './words.js';

const POLL_MS = 2_000;
const PAGE = 20;
const PAGE_MAX = 100;

/** The list of rooms, which is kept current by polling, and the form that creates one. */
export class Lobby {
  #anteroom;
  #enter;
  #shown = false;
  #wanted = PAGE;
  #timer = null;
  #failures = 0;
  // Polls overlap when the user asks for more; only the newest may draw.
  #poll = 0;

  /**
   * @param {import('./anteroom.js').Anteroom} anteroom
   * @param {(roomId: string) => void} enter
   */
  constructor(anteroom, enter) {
    this.#anteroom = anteroom;
    this.#enter = enter;
    const nickname = byId('nickname');
    nickname.value = loadNickname();
    holdName(nickname, 40);
    holdName(byId('room-title'), 100);
    nickname.addEventListener('input', () => saveNickname(nickname.value));
    byId('create-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#create(event.target);
    });
    byId('more').addEventListener('click', () => {
      this.#wanted += PAGE;
      this.#refresh();
    });
    document.addEventListener('visibilitychange', () => this.#refresh());
  }

  show() {
    this.#shown = true;
    this.#refresh();
  }

  hide() {
    this.#shown = false;
    clearTimeout(this.#timer);
  }

  async #refresh() {
    clearTimeout(this.#timer);
    if (!this.#shown || document.hidden) return;
    const poll = ++this.#poll;
    let failure;
    try {
      const { rooms, more } = await this.#fetchRooms();
      if (poll !== this.#poll) return;
      this.#failures = 0;
      this.#draw(rooms, more);
    } catch (error) {
      if (poll !== this.#poll) return;
      this.#failures++;
      failure = error;
      setText(byId('lobby-status'), failureWords(error));
    }
    if (this.#shown) this.#timer = setTimeout(() => this.#refresh(), pollDelay(POLL_MS, this.#failures, failure));
  }

  async #fetchRooms() {
    const rooms = new Map();
    let pageToken = '';
    do {
      const pageSize = Math.min(PAGE_MAX, this.#wanted - rooms.size);
      const page = await this.#anteroom.listRooms({ pageSize, pageToken });
      // If rooms come or go between two requests, a room can be on both pages.
      for (const room of page.rooms) rooms.set(room.roomId, room);
      pageToken = page.nextPageToken;
    } while (pageToken && rooms.size < this.#wanted);
    return { rooms: [...rooms.values()], more: Boolean(pageToken) };
  }

  #draw(rooms, more) {
    reconcile(byId('room-list'), rooms, { key: (room) => room.roomId, make: makeCard, update: updateCard });
    byId('more').hidden = !more;
    setText(byId('lobby-status'), rooms.length === 0 ? 'No room is open. Yours can be the first.' : '');
  }

  async #create(form) {
    const problem = byId('create-error');
    const button = byId('create');
    // The browser cannot point at an invalid field that is folded away.
    if (!form.elements.roomId.validity.valid) form.querySelector('details').open = true;
    if (!form.reportValidity()) return;
    setText(problem, '');
    button.disabled = true;
    try {
      const { roomId } = await this.#anteroom.createRoom(roomOf(form));
      form.elements.title.value = '';
      form.elements.roomId.value = '';
      // A user who has entered another room in the meantime stays there.
      if (this.#shown) this.#enter(roomId);
    } catch (error) {
      setText(problem, createFailure(error));
    } finally {
      button.disabled = false;
    }
  }
}

function roomOf(form) {
  const { title, capacity, roomId, departure } = form.elements;
  const room = { capacity: Number(capacity.value) };
  if (title.value.trim()) room.title = title.value.trim();
  if (roomId.value) room.roomId = roomId.value;
  if (departure.value !== '0') room.departureTimeoutSeconds = Number(departure.value);
  return room;
}

function makeCard({ roomId }) {
  const badge = element('span', { class: 'badge', id: `badge-of-${roomId}` });
  const seats = element('div', { class: 'seats', id: `seats-of-${roomId}` });
  const link = element('a', {
    class: 'enter',
    href: `#/room/${encodeURIComponent(roomId)}`,
    // For a screen reader, since titles can be the same.
    'aria-describedby': `${badge.id} ${seats.id}`,
  });
  const head = element('div', { class: 'room-card-head' }, link, badge);
  return element('li', { class: 'card room-card', 'data-room-id': roomId }, head, element('code', {}, roomId), seats);
}

function updateCard(card, room) {
  const free = Math.max(0, room.capacity - room.occupied - room.reserved);
  const link = card.querySelector('.enter');
  const title = titleOf(room);
  const untitled = title === room.roomId;
  setText(link, title);
  link.classList.toggle('untitled', untitled);
  card.querySelector('code').hidden = untitled;
  setText(card.querySelector('.badge'), free === 0 ? 'full' : `${free.toLocaleString()} free`);
  card.classList.toggle('full', free === 0);
  drawSeats(card.querySelector('.seats'), room);
}

function failureWords({ code, detail }) {
  return code === 'UNAVAILABLE'
    ? 'The server cannot be reached just now. Trying again by itself; the list may be old.'
    : `The list could not be read (${detail ?? code}). Trying again by itself.`;
}
