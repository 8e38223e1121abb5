// Asks the server again and again for what changed: more often while a run is active, not at all in a hidden tab.

const LIVE = 2000, IDLE = 15000; // milliseconds between two questions

// address: of a route, relative to the page's base, with at least one argument.
// hear: is given each answer that differs from the one before.
export function poll(address, hear) {
  let timer = 0, revision = "", ended = false;

  const ask = async () => {
    clearTimeout(timer);
    let active = false;
    if (!document.hidden) {
      try {
        const answer = await fetchJson(`${address}&since=${encodeURIComponent(revision)}`);
        if (ended) return;
        active = answer.active;
        if (!answer.same) { revision = answer.revision; hear(answer); }
      } catch (error) {
        if (!ended) hear({ error: String(error.message || error) });
      }
    }
    if (!ended) { clearTimeout(timer); timer = setTimeout(ask, active ? LIVE : IDLE); }
  };

  const seen = () => { if (!document.hidden) ask(); };
  document.addEventListener("visibilitychange", seen);
  ask();
  return { ask, end: () => { ended = true; clearTimeout(timer); document.removeEventListener("visibilitychange", seen); } };
}

export function urlOf(address) {
  return new URL(address, document.baseURI).href;
}

// The JSON at an address.  Throws the server's sentence where there is none.
export async function fetchJson(address) {
  const answer = await fetch(urlOf(address));
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}
