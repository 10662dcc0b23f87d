const MAX_MS = 20_000;

/**
 * Returns how long to wait before the next poll.
 * @param {number} usualMs
 * @param {number} failures consecutive failures; each doubles the time, up to 20 s
 * @param {{retryAfterSeconds?: number}} [error] the last failure, which may ask for a longer wait
 * @returns {number} milliseconds
 */
export function pollDelay(usualMs, failures, error) {
  const backoff = Math.min(MAX_MS, usualMs * 2 ** Math.min(failures, 5));
  return Math.max(backoff, (error?.retryAfterSeconds ?? 0) * 1000);
}
