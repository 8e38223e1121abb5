// How the table of runs looks, in the colours of the page's theme.

export const STYLE = `
:host, .table { font-family: var(--st-font); color: var(--st-text-color); font-size: 0.875rem; }
.table { min-height: 320px; }
.room { position: relative; }
.tools { display: flex; gap: 0.75rem; align-items: center; margin-bottom: 0.5rem; }
.filter { flex: 1; min-width: 0; height: 2.5rem; box-sizing: border-box; padding: 0 0.75rem; font: inherit;
  color: inherit; background: var(--st-secondary-background-color); border: 1px solid var(--field-border, var(--st-border-color));
  border-radius: var(--st-base-radius); }
.filter::placeholder { color: color-mix(in srgb, var(--st-text-color) 75%, var(--st-background-color)); opacity: 1; }
.filter[aria-invalid=true] { border-color: var(--bad); }
.said { white-space: nowrap; font-variant-numeric: tabular-nums; }
button { font: inherit; color: inherit; cursor: pointer; background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius); padding: 0 0.75rem;
  min-height: 2.25rem; }
button:hover { border-color: var(--st-primary-color); }
button[aria-disabled=true] { cursor: default; border-style: dashed;
  color: color-mix(in srgb, var(--st-text-color) 72%, var(--st-background-color)); }
button.plain { border-color: transparent; text-decoration: underline; }
:is(button, input, a, .grid):focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
.table { --bad: color-mix(in srgb, #d33 75%, var(--st-text-color)); --good: color-mix(in srgb, #1a9c50 60%, var(--st-text-color));
  --odd: color-mix(in srgb, #d97706 62%, var(--st-text-color)); --calm: color-mix(in srgb, var(--st-text-color) 78%,
  var(--st-background-color)); }
.wrong:not(:empty) { color: var(--bad); margin: -0.1rem 0 0.5rem 0.75rem; }
.trouble { color: var(--bad); margin-bottom: 0.5rem; }
[hidden] { display: none !important; }
.selection { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; margin-bottom: 0.5rem; }
.selection button { min-height: 2rem; }
.how-many { font-weight: 600; margin-right: 0.25rem; }
.grid { overflow: auto; border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius);
  background: var(--st-background-color); overscroll-behavior: contain; scrollbar-width: thin; }
.head, .row { display: grid; grid-template-columns: var(--template); width: max(100%, var(--width)); box-sizing: border-box; }
.head { position: sticky; top: 0; z-index: 3; height: 36px; background: var(--st-secondary-background-color);
  border-bottom: 1px solid var(--st-border-color); }
.body { position: relative; width: max(100%, var(--width)); }
.row { position: absolute; top: 0; left: 0; height: 48px; border-bottom: 1px solid var(--st-border-color);
  background: var(--st-background-color); }
.row:hover { background: var(--st-secondary-background-color); }
.row[aria-selected=true] { background: color-mix(in srgb, var(--st-primary-color) 13%, var(--st-background-color)); }
.cell { box-sizing: border-box; min-width: 0; padding: 0 8px; display: flex; align-items: center; overflow: hidden;
  white-space: nowrap; text-overflow: ellipsis; background: inherit; }
.head .cell { padding: 0; }
.head .cell button { width: 100%; height: 36px; min-height: 0; padding: 0 8px; border: 0; border-radius: 0; background: none;
  text-align: left; font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.head .cell button:hover { text-decoration: underline; }
.arrow { margin-left: 4px; }
.cell.number, .head .cell.number button { justify-content: flex-end; text-align: right; font-variant-numeric: tabular-nums; }
.cell.select { justify-content: center; position: sticky; left: 0; z-index: 1; padding: 0; }
.cell.select input { width: 1rem; height: 1rem; margin: 0; accent-color: var(--st-primary-color); }
.cell.preview { position: sticky; left: 36px; z-index: 1; padding: 0 6px; }
.cell.name { position: sticky; left: 88px; z-index: 1; gap: 6px; }
.cell.menu { position: sticky; right: 0; z-index: 1; padding: 0 4px; }
.cell.at { box-shadow: none; }
.grid:focus-visible .cell.at { outline: 2px solid var(--st-primary-color); outline-offset: -2px; }
.preview img { width: 40px; height: 40px; object-fit: cover; border-radius: 4px; image-rendering: pixelated; }
.names { display: flex; flex-direction: column; min-width: 0; }
.names .name { font-weight: 600; color: var(--st-link-color); text-decoration: none; overflow: hidden; text-overflow: ellipsis; }
.names .name:hover { text-decoration: underline; }
.below { font-size: 0.8rem; color: var(--calm); overflow: hidden; text-overflow: ellipsis; }
.star { color: var(--odd); }
.badge { display: inline-flex; align-items: center; gap: 6px; color: var(--calm); }
.badge::before { content: ""; width: 9px; height: 9px; border-radius: 50%; background: currentColor; flex: none; }
.badge.running, .badge.starting { color: var(--good); }
.badge.failed, .badge.lost { color: var(--bad); }
.badge.failed::before, .badge.lost::before { border-radius: 1px; }
.badge:is(.stopping, .not-responding, .unreadable) { color: var(--odd); }
.badge:is(.queued, .stopped)::before { background: none; box-shadow: inset 0 0 0 2px currentColor; }
.warning { color: var(--odd); font-weight: 700; border: 1.5px solid currentColor; border-radius: 50%; width: 1.1rem;
  height: 1.1rem; line-height: 1.1rem; text-align: center; margin-left: 6px; flex: none; font-size: 0.75rem; }
.cell.progress { flex-direction: column; align-items: stretch; justify-content: center; gap: 4px; }
.share { font-variant-numeric: tabular-nums; overflow: hidden; text-overflow: ellipsis; }
.bar { height: 4px; border-radius: 2px; background: color-mix(in srgb, var(--st-text-color) 20%, var(--st-background-color)); }
.done { display: block; height: 100%; border-radius: 2px; background: var(--calm); }
.done.live { background: var(--good); }
.curve svg { width: 100%; height: 30px; overflow: visible; }
.curve polyline { stroke: var(--st-primary-color); stroke-width: 1.5; stroke-linejoin: round; }
.cell.tags { gap: 4px; }
.tag { padding: 1px 8px; border-radius: 999px; border: 1px solid var(--st-border-color); }
.problem { color: var(--bad); display: block; line-height: 48px; }
.more { border-color: transparent; background: none; padding: 0; width: 36px; min-height: 36px; font-weight: 700; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.nothing { padding: 2rem; text-align: center; }
.panel { position: absolute; z-index: 20; background: var(--st-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-base-radius); box-shadow: 0 6px 24px rgb(0 0 0 / 0.22); padding: 0.35rem; }
.panel [role=menu] { display: flex; flex-direction: column; min-width: 210px; }
.panel [role=menuitem] { display: block; text-align: left; border: 0; border-radius: 6px; background: none; color: inherit;
  padding: 0.3rem 0.75rem; min-height: 0; line-height: 1.5; text-decoration: none; }
.panel [role=menuitem]:is(:hover, :focus) { background: var(--st-secondary-background-color); }
.panel [role=menuitem][aria-disabled=true] { color: color-mix(in srgb, var(--st-text-color) 72%, var(--st-background-color)); }
.panel hr { width: 100%; border: 0; border-top: 1px solid var(--st-border-color); margin: 0.3rem 0; }
.chooser { width: min(30rem, 80vw); max-height: min(26rem, 60vh); overflow: auto; padding: 0.5rem; }
.chooser .find { display: flex; gap: 0.5rem; position: sticky; top: -0.5rem; background: inherit; padding: 0.25rem 0; }
.chooser .find input { flex: 1; min-width: 0; font: inherit; color: inherit; background: var(--st-secondary-background-color);
  border: 1px solid var(--field-border, var(--st-border-color)); border-radius: 6px; padding: 0 0.5rem; }
.chooser fieldset { border: 0; padding: 0; margin: 0.5rem 0 0; display: grid; grid-template-columns: 1fr 1fr; gap: 0.15rem 1rem; }
.chooser legend { font-weight: 600; padding: 0; margin-bottom: 0.15rem; }
.chooser label { display: flex; gap: 0.5rem; align-items: center; min-width: 0; }
.chooser label span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
`;
