"""The previews of a run: one large, a strip of all, a slider that plays, and the full screen.

The browser fetches them from pages/server/previews_route.py, and asks for new ones by itself.
"""

from pages.ui.components import browser_code

_HTML = """
<div class="home"><div class="view none">
  <div class="stage"><img alt="" hidden></div>
  <p class="note" role="status" hidden></p>
  <div class="bar">
    <button type="button" class="play" aria-label="Play" title="Play (space)"><svg viewBox="0 0 24 24"
      aria-hidden="true">
      <path class="go" d="M7 4v16l13-8z"/><path class="wait" d="M6 4h4v16H6zM14 4h4v16h-4z"/></svg></button>
    <input type="range" class="at" min="0" step="1" aria-label="Preview">
    <output class="said"></output>
    <button type="button" class="newest" title="Show the newest one, and each new one" hidden>Newest</button>
    <a class="take" aria-label="Download this preview" title="Download this preview"><svg viewBox="0 0 24 24"
      aria-hidden="true"><path d="M11 3h2v9l3.5-3.5L18 10l-6 6-6-6 1.5-1.5L11 12zM4 18h16v2H4z"/></svg></a>
    <button type="button" class="full" aria-label="Full screen" title="Full screen (f)"><svg viewBox="0 0 24 24"
      aria-hidden="true"><path d="M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z"/></svg></button>
  </div>
  <div class="film" tabindex="0" role="listbox" aria-orientation="horizontal" aria-label="All previews"
    aria-description="Arrow keys change the preview, Enter pins it, space plays, f is the full screen."><div
    class="inner" role="presentation"></div></div>
</div></div>
<dialog aria-label="Previews on the full screen"></dialog>
"""
_CSS = """
:host { display: block; }
.view { display: flex; flex-direction: column; gap: 0.5rem; font-family: var(--st-font); color: var(--st-text-color); }
[hidden], .view.none > :not(.note) { display: none; }
.stage { display: grid; place-items: center; }
.stage img { display: block; width: 100%; max-width: 768px; height: auto; border-radius: 4px; }
.stage img[hidden], .note[hidden] { display: none; }
.note { margin: 0; padding: 0.75rem 1rem; font: 0.875rem/1.5 var(--st-font); color: var(--st-text-color);
  background: var(--st-secondary-background-color); border-radius: var(--st-base-radius); overflow-wrap: anywhere; }
.bar { display: flex; align-items: center; gap: 0.5rem; font-size: 0.875rem; }
button, .take { box-sizing: border-box; display: inline-grid; place-items: center; flex: none; min-width: 2rem;
  height: 2rem; padding: 0 0.4rem; font: inherit; color: inherit; cursor: pointer; text-decoration: none;
  background: var(--st-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius); }
button:hover, .take:hover { border-color: var(--st-primary-color); color: var(--st-link-color); }
button:disabled { opacity: 0.45; cursor: default; }
svg { width: 1rem; height: 1rem; fill: currentColor; }
.play .wait, .play.playing .go { display: none; }
.play.playing .wait { display: inline; }
:is(button, .take, .film, input):focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
.at { flex: 1; min-width: 3rem; height: 1.5rem; margin: 0; accent-color: var(--st-primary-color); cursor: pointer; }
.said { flex: none; font-variant-numeric: tabular-nums; }
.film { position: relative; overflow-x: auto; overflow-y: hidden; height: 92px; scrollbar-width: thin; }
.inner { position: relative; height: 82px; }
.place { position: absolute; top: 2px; width: 64px; cursor: pointer; text-align: center; }
.place img { box-sizing: border-box; display: block; width: 60px; height: 60px; object-fit: contain; margin: 0 2px;
  border: 2px solid transparent; border-radius: 4px; image-rendering: pixelated; }
.place span { display: block; overflow: hidden; font-size: 0.75rem; line-height: 1.3; white-space: nowrap; }
.place[aria-selected=true] img { border-color: var(--st-primary-color); }
.place[aria-selected=true] span { font-weight: 600; }
.place.pinned img { border-style: double; border-width: 4px; }
.place.broken img { visibility: hidden; }
.place.broken::before { content: "?"; position: absolute; inset: 2px 2px auto; height: 58px; display: grid;
  place-items: center; border: 1px dashed var(--st-text-color); border-radius: 4px; }
dialog { box-sizing: border-box; width: 100vw; height: 100vh; max-width: none; max-height: none; margin: 0;
  padding: 1rem; border: 0; background: var(--st-background-color); color: var(--st-text-color); }
dialog::backdrop { background: var(--st-background-color); }
dialog .view { height: 100%; }
dialog .stage { position: relative; flex: 1; min-height: 0; }
dialog .stage img { position: absolute; inset: 0; width: 100%; height: 100%; max-width: none; object-fit: contain; }
"""

_component = browser_code.component("ddpm_previews", "previews.js", html=_HTML, css=_CSS)


def show(run: str, empty: str) -> None:
    """Shows the previews of the run of that name.  empty: what is said while there is none."""
    _component(key="previews", data={"run": run, "empty": empty})
