// Keeps the rows of all runs as the server knows them: asks for what has changed, often while a run is active.

import { isActive } from "./runs_columns.js";

const SOON = 400, LIVE = 2000, IDLE = 5000; // milliseconds until the next request

// onChange(changed): after each answer that brought something; changed is a set of names, or null for all.
// onTrouble(sentence): what is wrong, "" once it is not.
export class RunsClient {
  constructor({ onChange, onTrouble }) {
    this.rows = new Map();
    this.legend = { settings: [], metrics: {} };
    this.loaded = false;
    this.revision = "";
    this.onChange = onChange;
    this.onTrouble = onTrouble;
    this.failures = 0;
    this.look = () => { if (!document.hidden) this.ask(); };
    document.addEventListener("visibilitychange", this.look);
    this.ask();
  }

  leave() {
    this.left = true;
    clearTimeout(this.timer);
    this.request?.abort();
    document.removeEventListener("visibilitychange", this.look);
  }

  async ask() {
    clearTimeout(this.timer);
    if (this.asking || this.left) return;
    this.asking = true;
    let soon = false;
    try {
      this.request = new AbortController();
      const answer = await fetch(new URL(`data/runs?since=${this.revision}`, document.baseURI), { signal: this.request.signal });
      if (!answer.ok) throw new Error((await answer.text()).trim());
      const found = await answer.json();
      soon = found.soon;
      if (this.left) return;
      if (this.failures) this.onTrouble("");
      this.failures = 0;
      if (!found.same) this.take(found);
    } catch (error) {
      if (this.left) return;
      this.failures += 1;
      if (this.failures > 1) this.onTrouble(error instanceof TypeError ? "The server does not answer. The list is as it was." : error.message);
    } finally {
      this.asking = false;
    }
    if (document.hidden) return; // asked again once it is seen
    const live = [...this.rows.values()].some(isActive);
    this.timer = setTimeout(() => this.ask(), soon && !this.failures ? SOON : live ? LIVE : IDLE);
  }

  take(found) {
    if (found.whole) {
      this.rows = new Map();
      this.legend = { settings: found.settings, metrics: found.metrics };
    }
    for (const name of found.gone ?? []) this.rows.delete(name);
    for (const row of found.rows) this.rows.set(row.name, row);
    this.count = found.count;
    this.revision = found.revision;
    this.loaded = true;
    this.onChange(found.whole ? null : new Set([...found.rows.map((row) => row.name), ...(found.gone ?? [])]));
  }
}
