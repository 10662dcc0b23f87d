import { Anteroom } from './anteroom.js';
import { byId } from './dom.js';
import { Lobby } from './lobby.js';
import { RoomView } from './room.js';

const anteroom = new Anteroom();
const lobby = new Lobby(anteroom, (roomId) => {
  location.hash = roomHash(roomId);
});
const room = new RoomView(anteroom, () => {
  location.hash = '#/';
});

function roomHash(roomId) {
  return `#/room/${encodeURIComponent(roomId)}`;
}

/** Returns the id in `#/room/<id>`; undefined for everything else, which is the lobby. */
function roomIdOf(hash) {
  const [, id] = /^#\/room\/([^/]+)$/.exec(hash) ?? [];
  try {
    return id && decodeURIComponent(id);
  } catch {
    return undefined;
  }
}

let moved = false;

function route() {
  const roomId = roomIdOf(location.hash);
  byId('lobby').hidden = Boolean(roomId);
  byId('room').hidden = !roomId;
  room.exit();
  if (roomId) {
    lobby.hide();
    room.enter(roomId);
  } else {
    document.title = 'Anteroom';
    lobby.show();
    // Not when the page has just been opened: reading then starts at its top.
    if (moved) byId('entry-heading').focus();
  }
  moved = true;
}

addEventListener('hashchange', route);
route();
