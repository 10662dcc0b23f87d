import { setText, element } from './dom.js';

// Nobody can count more chairs than this at a glance; a bar is drawn instead.
const MAX_CHAIRS = 48;
const MANY_CHAIRS = 16;
const SVG = 'http://www.w3.org/2000/svg';

const number = new Intl.NumberFormat();

/**
 * Draws the seats of a room: one chair for each seat, or a bar for big rooms. Call
 * it again with other numbers to update the drawing in place.
 * @param {HTMLElement} box
 * @param {{capacity: number, reserved: number, occupied: number}} room
 */
export function drawSeats(box, { capacity, reserved, occupied }) {
  const kind = capacity > MAX_CHAIRS ? 'bar' : 'chairs';
  if (box.dataset.kind !== `${kind} ${capacity}`) {
    box.dataset.kind = `${kind} ${capacity}`;
    box.replaceChildren(kind === 'bar' ? makeBar() : makeChairs(capacity), element('p', { class: 'count' }));
  }
  const drawing = box.firstElementChild;
  if (kind === 'bar') fillBar(drawing, { capacity, reserved, occupied });
  else fillChairs(drawing, { reserved, occupied });
  const words = countWords({ capacity, reserved, occupied });
  setText(box.lastElementChild, words);
}

/** @returns {string} such as “3 of 8 seats occupied, 1 reserved” */
function countWords({ capacity, reserved, occupied }) {
  const seats = capacity === 1 ? 'seat' : 'seats';
  const held = `${number.format(occupied)} of ${number.format(capacity)} ${seats} occupied`;
  return reserved > 0 ? `${held}, ${number.format(reserved)} reserved` : held;
}

function makeChairs(capacity) {
  const chairs = element('div', { class: capacity > MANY_CHAIRS ? 'chairs many' : 'chairs', 'aria-hidden': 'true' });
  for (let i = 0; i < capacity; i++) {
    const chair = svg('svg', { class: 'seat free' });
    chair.append(svg('use', { href: '#chair' }));
    chairs.append(chair);
  }
  return chairs;
}

function fillChairs(chairs, { reserved, occupied }) {
  Array.from(chairs.children).forEach((chair, i) => {
    const kind = i < occupied ? 'occupied' : i < occupied + reserved ? 'reserved' : 'free';
    chair.setAttribute('class', `seat ${kind}`);
  });
}

function makeBar() {
  const bar = svg('svg', { class: 'bar', viewBox: '0 0 1000 10', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  for (const kind of ['occupied', 'reserved']) {
    bar.append(svg('rect', { class: kind, y: '0', height: '10' }));
  }
  return bar;
}

function fillBar(bar, { capacity, reserved, occupied }) {
  const [taken, held] = bar.children;
  // A single seat of 100,000 must still be visible.
  const width = (seats) => (seats === 0 ? 0 : Math.max(4, (1000 * seats) / capacity));
  taken.setAttribute('x', '0');
  taken.setAttribute('width', String(width(occupied)));
  held.setAttribute('x', String(width(occupied)));
  held.setAttribute('width', String(width(reserved)));
}

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
