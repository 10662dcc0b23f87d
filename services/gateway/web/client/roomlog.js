/**
 * What a member knows of a room: how far its log has been read, and the
 * roster. Pure bookkeeping, no I/O.
 *
 * Two positions matter. `seq` is the last entry that was accepted; an entry that is not
 * newer is a duplicate. `rosterSeq` is the entry up to which the roster of JOINED counts;
 * after a rejoin, entries up to it are reported but do not change the roster.
 */
export class RoomLog {
  epoch = null;
  seq = 0;
  rosterSeq = 0;
  capacity = 0;
  occupied = 0;
  /** @type {Map<string, {userId: string, nickname?: string}>} */
  members = new Map();
  // In a room that was created anew, entries up to here were never ours to see, so their
  // absence is not a gap.
  #unknownUntil = 0;

  /** @param {{epoch: string, seq: number}} [after] where an earlier connection stopped */
  constructor(after) {
    if (after) {
      this.epoch = after.epoch;
      this.seq = after.seq;
    }
  }

  /** The position to rejoin from: before the first JOINED the `after` that was given, or undefined. */
  get position() {
    return this.epoch === null ? undefined : { epoch: this.epoch, seq: this.seq };
  }

  /** Whether everything that JOINED announced has been read. */
  get caughtUp() {
    return this.seq >= this.rosterSeq || this.#unknownUntil === this.rosterSeq;
  }

  /**
   * Takes a JOINED frame.
   * @returns {boolean} whether this is another room than before (a new epoch)
   */
  join(frame) {
    const first = this.epoch === null;
    const renewed = !first && this.epoch !== frame.epoch;
    this.#unknownUntil = 0;
    if (first) {
      this.seq = frame.seq;
    } else if (renewed) {
      this.seq = 0;
      this.#unknownUntil = frame.seq;
    } else {
      // The store can lose its newest entries in a crash. The log then goes on from an
      // older seq, and its new entries must not be taken for duplicates.
      this.seq = Math.min(this.seq, frame.seq);
    }
    this.epoch = frame.epoch;
    this.rosterSeq = frame.seq;
    this.capacity = frame.capacity;
    this.occupied = frame.occupied;
    this.members = new Map((frame.members ?? []).map((m) => [m.userId, m]));
    return renewed;
  }

  /**
   * Takes an entry (a frame with `seq`).
   * @returns {{gap: ?{from: number, to: number}, replayed: boolean} | null}
   *   null for a duplicate; `replayed` if the roster includes the entry already
   */
  accept(frame) {
    if (frame.seq <= this.seq) return null;
    const from = Math.max(this.seq, this.#unknownUntil) + 1;
    const gap = from < frame.seq ? { from, to: frame.seq - 1 } : null;
    this.seq = frame.seq;
    const replayed = frame.seq <= this.rosterSeq;
    if (!replayed) this.#count(frame);
    return { gap, replayed };
  }

  /**
   * Takes a GAP frame.
   * @returns {{from: number, to: number} | null} what is missing, null if nothing is
   */
  skip(frame) {
    if (frame.to <= this.seq) return null;
    const from = this.seq < this.#unknownUntil ? frame.from : this.seq + 1;
    this.seq = frame.to;
    return { from, to: frame.to };
  }

  #count(frame) {
    if (frame.type === 'MEMBER_JOINED') this.members.set(frame.member.userId, frame.member);
    if (frame.type === 'MEMBER_LEFT') this.members.delete(frame.member.userId);
    if (Number.isInteger(frame.occupied)) this.occupied = frame.occupied;
  }
}
