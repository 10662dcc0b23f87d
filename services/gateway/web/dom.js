/** Small DOM functions. Text from outside only ever becomes text nodes. */

/** @returns {HTMLElement} the element of index.html with that id */
export const byId = (id) => document.getElementById(id);

/**
 * @param {string} tag
 * @param {Record<string, string>} [attributes] `class` and the like
 * @param {...(Node|string)} children
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Sets the text only when it differs, so that live regions do not repeat themselves. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Makes the children of `list` match `items`, in their order. Elements that exist
 * already are kept, and so is the focus within them.
 * @template T
 * @param {HTMLElement} list
 * @param {Iterable<T>} items
 * @param {{key: (item: T) => string, make: (item: T) => HTMLElement, update: (node: HTMLElement, item: T) => void}} how
 */
export function reconcile(list, items, { key, make, update }) {
  const wanted = new Map(Array.from(items, (item) => [key(item), item]));
  const old = new Map(Array.from(list.children, (node) => [node.dataset.key, node]));
  // Old nodes are removed before any is placed. Otherwise nodes that stay would have to be
  // moved, and a node that is moved loses the focus.
  for (const [name, node] of old) if (!wanted.has(name)) node.remove();
  let place = list.firstElementChild;
  for (const [name, item] of wanted) {
    let node = old.get(name);
    if (!node) {
      node = make(item);
      node.dataset.key = name;
    }
    update(node, item);
    if (node === place) place = place.nextElementSibling;
    else list.insertBefore(node, place);
  }
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });

/** @param {string} time RFC 3339 */
export function timeElement(time) {
  const date = new Date(time);
  const words = Number.isNaN(date.getTime()) ? '' : clock.format(date);
  return element('time', { datetime: time, title: words && date.toLocaleString() }, words);
}

// The server accepts names that consist of spaces and characters without a width. Nobody
// could read or click those.
const seen = (name) => /[^\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\u2800]/u.test(name ?? '');

/** The name to show for a user: the nickname, or "Guest" with the end of the user id. */
export function nameOf({ userId, nickname }) {
  return seen(nickname) ? nickname : `Guest ${userId.slice(-4)}`;
}

/** The name to show for a room: its title, or else its id. */
export function titleOf({ roomId, title }) {
  return seen(title) ? title : roomId;
}

// Characters that the server refuses in names: control characters, line separators and
// direction marks.
const UNPRINTABLE = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;

/**
 * Keeps the content of a field to what the server accepts as a name. The server's limit
 * counts characters; maxlength would count an emoji as two.
 * @param {HTMLInputElement} field
 * @param {number} most
 */
export function holdName(field, most) {
  const hold = () => {
    const name = [...field.value.replace(UNPRINTABLE, '')].slice(0, most).join('');
    if (field.value !== name) field.value = name;
  };
  // Changing the field while an input method composes a word in it would abort that.
  field.addEventListener('input', (event) => event.isComposing || hold());
  field.addEventListener('compositionend', hold);
}

const NICKNAME = 'anteroom.nickname';

export function loadNickname() {
  try {
    return sessionStorage.getItem(NICKNAME) ?? '';
  } catch {
    return '';
  }
}

export function saveNickname(nickname) {
  try {
    sessionStorage.setItem(NICKNAME, nickname.trim());
  } catch {
    // Storage is disabled: the field itself keeps the nickname as long as the page is open.
  }
}
