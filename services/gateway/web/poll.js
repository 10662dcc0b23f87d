const MAX_MS = 20_000;

/**
 * How long to wait before asking again.
 * @param {number} usualMs
 * @param {number} failures in a row; each doubles the time, to 20 s
 * @param {{retryAfterSeconds?: number}} [error] the last one, which may ask for more
 * @returns {number} milliseconds
 */
export function pollDelay(usualMs, failures, error) {
  const backoff = Math.min(MAX_MS, usualMs * 2 ** Math.min(failures, 5));
  return Math.max(backoff, (error?.retryAfterSeconds ?? 0) * 1000);
}
