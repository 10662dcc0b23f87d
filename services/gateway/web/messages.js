import { byId, element, nameOf, timeElement } from './dom.js';
import { departure, sendFailure } from './words.js';

// Older lines are removed, so that a conversation of days does not slow the page down.
const MAX_LINES = 500;
const NEAR_BOTTOM_PX = 48;

/** The conversation: messages, quiet lines about joins and leaves, and gaps. */
export class Messages {
  #list = byId('messages');
  #newest = byId('newest');
  #following = true;
  /** @type {Map<string, HTMLElement>} own messages without an echo, by id, in the order sent */
  #pending = new Map();

  constructor() {
    this.#newest.addEventListener('click', () => this.#toBottom());
    this.#list.addEventListener('scroll', () => {
      this.#following = this.#atBottom();
      if (this.#following) this.#newest.hidden = true;
    });
    // A notice or a telephone's keyboard can make the list smaller.
    new ResizeObserver(() => this.#following && this.#toBottom()).observe(this.#list);
  }

  clear() {
    this.#list.replaceChildren();
    this.#pending.clear();
    this.#newest.hidden = true;
    this.#following = true;
  }

  /** Shows a message that is being sent. */
  pend(id, body) {
    const line = messageLine({ body, own: true });
    line.classList.add('pending');
    line.querySelector('.when').textContent = 'sending…';
    this.#pending.set(id, line);
    this.#list.append(line);
    line.classList.toggle('same', sameAuthor(line.previousElementSibling, line));
    this.#toBottom();
  }

  /** Shows a MESSAGE from the room, which may be the echo of a pending one. */
  message(frame) {
    const waiting = frame.own && this.#pending.get(frame.id);
    if (!waiting) {
      if (frame.own) this.#failed(frame.id)?.remove(); // it did arrive after all
      this.#insert(messageLine(frame));
      return;
    }
    this.#pending.delete(frame.id);
    waiting.classList.remove('pending');
    waiting.dataset.seq = String(frame.seq);
    waiting.querySelector('.when').replaceChildren(timeElement(frame.time));
    // Echoes come in the order of the log, which may differ from the order of sending.
    const next = this.#firstPending();
    if (next && next.compareDocumentPosition(waiting) & Node.DOCUMENT_POSITION_FOLLOWING) next.before(waiting);
    waiting.classList.toggle('same', sameAuthor(waiting.previousElementSibling, waiting));
  }

  /** Marks a pending message as failed. `again` sends it once more and returns whether it could. */
  fail(id, error, again) {
    const line = this.#pending.get(id);
    if (!line) return;
    this.#pending.delete(id);
    line.classList.replace('pending', 'failed');
    line.dataset.id = id;
    const button = element('button', { class: 'link', type: 'button' }, 'Send again');
    button.addEventListener('click', () => {
      if (!again()) return;
      line.remove();
      byId('message-input').focus();
    });
    line.querySelector('.when').replaceChildren(sendFailure(error), ' · ', button);
  }

  memberJoined({ member, time }) {
    this.#insert(quietLine(`${nameOf(member)} joined`, time));
  }

  memberLeft({ member, reason, time }) {
    this.#insert(quietLine(`${nameOf(member)} ${departure(reason)}`, time));
  }

  gap({ from, to }) {
    const missing = from === to ? 'One entry of the log is' : `${(to - from + 1).toLocaleString()} entries of the log are`;
    this.#insert(element('li', { class: 'gap' }, `${missing} no longer kept.`));
  }

  note(text) {
    this.#insert(quietLine(text));
  }

  #insert(line) {
    const stay = !this.#following;
    const next = this.#firstPending();
    if (next) next.before(line);
    else this.#list.append(line);
    line.classList.toggle('same', sameAuthor(line.previousElementSibling, line));
    while (this.#list.childElementCount > MAX_LINES) this.#list.firstElementChild.remove();
    if (stay) this.#newest.hidden = false;
    else this.#toBottom();
  }

  #failed(id) {
    return this.#list.querySelector(`.failed[data-id="${CSS.escape(id)}"]`);
  }

  #firstPending() {
    return this.#pending.values().next().value;
  }

  #atBottom() {
    const { scrollTop, scrollHeight, clientHeight } = this.#list;
    return scrollHeight - scrollTop - clientHeight < NEAR_BOTTOM_PX;
  }

  #toBottom() {
    this.#following = true;
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#newest.hidden = true;
  }
}

function messageLine({ from, body, time, own, seq }) {
  const line = element('li', { class: own ? 'message own' : 'message' });
  if (seq !== undefined) line.dataset.seq = String(seq);
  line.dataset.from = own ? 'own' : from.userId;
  const name = own ? 'You' : nameOf(from);
  line.append(
    element('span', { class: own ? 'author visually-hidden' : 'author' }, name),
    element('p', { class: 'body', dir: 'auto' }, typeof body === 'string' ? body : JSON.stringify(body)),
    element('span', { class: 'when' }, time ? timeElement(time) : ''),
  );
  return line;
}

function quietLine(text, time) {
  const line = element('li', { class: 'quiet-line' }, text);
  if (time) line.append(' ', timeElement(time));
  return line;
}

function sameAuthor(before, line) {
  return before !== null && line.dataset.from !== undefined && before.dataset.from === line.dataset.from;
}
