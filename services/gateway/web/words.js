/** What went wrong, in words for the user of the page. */

const RETRY = 'Try again';

const ENDINGS = {
  ROOM_FULL: ['Every seat is taken', 'This room is full just now. A seat becomes free when somebody leaves.', RETRY],
  PERMIT_EXPIRED: ['The reservation lapsed', 'A seat is held for 15 seconds. Joining took longer than that.', 'Reserve again'],
  REPLACED: ['You joined from another tab or device', 'The seat moved there with you. You can take it back to this tab.', 'Take the seat back here'],
  REMOVED: ['You were removed from this room', 'Somebody with that right took you out of it.', 'Ask for a seat again'],
  ROOM_DELETED: ['This room was closed', 'It was deleted while you were in it.', null],
  ROOM_NOT_FOUND: ['There is no such room', 'A room goes away after its last seat is given up. Perhaps it just did.', null],
  FORBIDDEN: ['Not allowed', 'The server does not let this page join that room.', null],
  UNAUTHENTICATED: ['The server no longer knows you', 'You can join again as a new guest.', 'Join as a new guest'],
  RATE_LIMITED: ['Too much at once', 'The server asks to slow down. Wait a moment.', RETRY],
  UNAVAILABLE: ['The server cannot be reached', 'This says nothing about the room; it may well have free seats.', RETRY],
  JOIN_TIMEOUT: ['Joining took too long', 'The connection opened, but the join did not arrive in time.', RETRY],
  TOO_BIG: ['A message was too large', 'The server ended the connection because of it.', 'Join again'],
  BAD_REQUEST: ['The server did not understand', 'It refused what this page sent.', null],
  INTERNAL: ['The server failed', 'It could not do what this page asked for.', RETRY],
};

const UNKNOWN = ['The connection ended', 'The server closed it.', RETRY];

/**
 * @param {string} code an error code or the name of a close code
 * @param {string} [detail] what the server said; shown if our own words are vague
 * @returns {{title: string, text: string, again: ?string}} `again` names the button, null for none
 */
export function ending(code, detail) {
  const [title, text, again] = ENDINGS[code] ?? UNKNOWN;
  const vague = !ENDINGS[code] || code === 'BAD_REQUEST' || code === 'INTERNAL';
  return { title, text: vague && detail ? `${text} (${detail})` : text, again };
}

/** Why a room could not be created. */
export function createFailure({ code, detail }) {
  switch (code) {
    case 'ROOM_EXISTS':
      return 'A room of this id is open already. Choose another id, or enter it from the list.';
    case 'UNAVAILABLE':
      return 'The server cannot be reached. Nothing was created, as far as we know.';
    case 'RATE_LIMITED':
      return 'Too many rooms at once. Wait a moment.';
    default:
      return `The room was not created: ${detail ?? code}.`;
  }
}

/** Why one message did not arrive. */
export function sendFailure({ code, detail }) {
  switch (code) {
    case 'UNCONFIRMED':
      return 'may not have arrived';
    case 'CLOSED':
      return 'not sent: the connection ended';
    default:
      return `not sent: ${detail ?? code}`;
  }
}

/** How a member left, to follow the name. */
export function departure(reason) {
  return { LOST: 'lost the connection', REMOVED: 'was removed' }[reason] ?? 'left';
}
