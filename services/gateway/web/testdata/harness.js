/**
 * Lets a Go test drive the browser client. Time stands still unless the test moves it,
 * the test sets what Math.random returns, and the events that the application gets are
 * queued as short lines for the test to read.
 */
import { Anteroom } from '/anteroom.js';

let now = Date.now();
let lastTimer = 0;
const timers = new Map();
Date.now = () => now;
globalThis.setTimeout = (run, ms = 0) => {
  timers.set(++lastTimer, { run, at: now + ms });
  return lastTimer;
};
globalThis.clearTimeout = (id) => timers.delete(id);

let chance = 0.5;
Math.random = () => chance;

let dialed = 0;
let written = 0;
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    super(url);
    dialed++;
  }

  send(text) {
    written++;
    super.send(text);
  }
};

const lines = [];
let reader = null;

function tell(...words) {
  lines.push(words.filter((word) => word !== undefined && word !== false && word !== '').join(' '));
  reader?.();
}

const TOLD = {
  state: ({ state, reason, delayMs }) => {
    if (state === 'reconnecting' && reason !== 'Connecting again.') tell('reconnecting', Math.round(delayMs));
  },
  joined: ({ seq, rejoin, renewed }) => tell('joined', seq, rejoin && 'again', renewed && 'renewed'),
  message: ({ seq, body, own }) => tell('message', seq, body, own && 'own'),
  memberjoined: ({ seq, member, replayed }) => tell('memberjoined', seq, member.userId, replayed && 'replayed'),
  memberleft: ({ seq, member, replayed }) => tell('memberleft', seq, member.userId, replayed && 'replayed'),
  gap: ({ from, to }) => tell('gap', `${from}-${to}`),
  error: ({ code, id, retrying }) => tell('error', code, id, retrying && 'retrying'),
  closed: ({ code, name, detail, joined }) => tell('closed', code, name, detail, !joined && 'unjoined'),
};

sessionStorage.clear(); // an earlier page's identity
const anteroom = new Anteroom();
let room = null;

globalThis.harness = {
  join(options) {
    room = anteroom.join(location.search.slice(1), options);
    for (const [type, say] of Object.entries(TOLD)) {
      room.addEventListener(type, ({ detail }) => say(detail));
    }
  },

  send(body, id) {
    room.send(body, { id }).then(
      ({ seq }) => tell('sent', id, seq),
      ({ code, detail }) => tell('failed', id, code, code === 'CLOSED' && detail),
    );
  },

  /** Sends a message as soon as the application is told that it has joined again. */
  sendOnceJoined(body, id) {
    room.addEventListener('joined', () => harness.send(body, id), { once: true });
  },

  forgetIdentity: () => anteroom.forgetIdentity(),
  keepIdentity: (userId) => anteroom.keepIdentity({ userId, identity: 'token' }),

  hurry: () => room.hurry(),
  leave: () => room.leave().then(() => tell('left')),

  /** Waits for the next line and returns it. */
  async next() {
    while (lines.length === 0) await new Promise((resolve) => { reader = resolve; });
    return lines.shift();
  },

  dialed: () => dialed,
  written: () => written,

  /** Moves the time forward, and returns how many sockets were opened in all. */
  async advance(ms) {
    const until = now + ms;
    for (;;) {
      const [id, timer] = [...timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!timer || timer.at > until) break;
      timers.delete(id);
      now = Math.max(now, timer.at);
      timer.run();
      await settled();
    }
    now = until;
    await settled();
    return dialed;
  },

  setChance(value) { chance = value; },
  members: () => [...room.members.keys()].join(' '),
  occupied: () => room.occupied,
};

/** Waits until everything is done that follows a timer without I/O, such as using a stored identity. */
async function settled() {
  for (let i = 0; i < 10; i++) await null;
}
