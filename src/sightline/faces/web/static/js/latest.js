/** Only the newest answer counts: starting again aborts what is still under way. */

export class Latest {
  /** @type {AbortController | null} */
  #controller = null;

  /**
   * Run `work`, aborting the run before. Gives its value, or undefined where a newer run (or `stop`) overtook it.
   *
   * @template T
   * @param {(signal: AbortSignal) => Promise<T>} work
   * @returns {Promise<T | undefined>}
   */
  async run(work) {
    this.stop();
    const controller = new AbortController();
    this.#controller = controller;
    try {
      const value = await work(controller.signal);
      return controller.signal.aborted ? undefined : value;
    } catch (error) {
      if (controller.signal.aborted) return undefined;
      throw error;
    } finally {
      if (this.#controller === controller) this.#controller = null;
    }
  }

  /** Whether an answer is awaited. */
  get busy() {
    return this.#controller !== null;
  }

  /** Forget what is under way. */
  stop() {
    this.#controller?.abort();
    this.#controller = null;
  }
}

/**
 * Call `work` once the calls have paused for `wait_ms`.
 *
 * @param {() => void} work
 * @param {number} wait_ms
 */
export function debounce(work, wait_ms) {
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = window.setTimeout(work, wait_ms);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}
