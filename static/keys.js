// The list of keys: `?` or its button opens it.

import { followTheme } from "./theme.js";

// Whether a key that was pressed there is typed text.
export function isTyping(target) {
  return Boolean(target?.closest?.("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select"))
    || Boolean(target?.isContentEditable);
}

function row(keys, meaning) {
  const line = document.createElement("tr");
  const [head, cell] = [document.createElement("th"), document.createElement("td")];
  head.scope = "row";
  keys.split(" ").forEach((key, place) => {
    if (place) head.append(" ");
    const shown = document.createElement("kbd");
    shown.textContent = key;
    head.append(shown);
  });
  cell.textContent = meaning;
  line.append(head, cell);
  return line;
}

function fill(table, groups) {
  table.replaceChildren(...groups.flatMap(([title, rows]) => {
    const heading = document.createElement("caption");
    heading.textContent = title;
    const body = document.createElement("tbody");
    body.append(...rows.map(([keys, meaning]) => row(keys, meaning)));
    const part = document.createElement("table");
    part.append(heading, body);
    return part;
  }));
}

export function mount({ parentElement, data }) {
  const dialog = parentElement.querySelector("dialog");
  const list = parentElement.querySelector(".list");
  const open = () => { if (!dialog.open) dialog.showModal(); };
  const hear = (event) => {
    const busy = document.querySelector("[data-testid=stDialog]") || isTyping(event.composedPath()[0]);
    if (event.key !== "?" || event.ctrlKey || event.metaKey || event.altKey || busy) return;
    event.preventDefault();
    if (dialog.open) dialog.close();
    else open();
  };
  fill(list, data.groups);
  parentElement.querySelector(".open").onclick = open;
  parentElement.querySelector(".close").onclick = () => dialog.close();
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  window.addEventListener("keydown", hear);
  const unfollow = followTheme(); // here, as this part is on every page
  return {
    update: ({ data: now }) => fill(list, now.groups),
    leave: () => {
      window.removeEventListener("keydown", hear);
      unfollow();
    },
  };
}
