// Links to fields of a form: a click unfolds what the field is in, scrolls to it and gives it the focus.

export function mount({ parentElement, data }) {
  const list = parentElement.querySelector("ul");
  const title = parentElement.querySelector("p");
  draw(parentElement, title, list, data);
  return { update: (component) => draw(parentElement, title, list, component.data) };
}

function draw(parent, title, list, { title: text, wrong, links }) {
  title.textContent = text;
  title.className = wrong ? "wrong" : "";
  list.replaceChildren(...links.map(item));
}

function item({ label, text, place }) {
  const row = document.createElement("li");
  if (label) {
    const link = document.createElement("button");
    link.type = "button";
    link.textContent = label;
    link.addEventListener("click", () => goTo(place));
    const rest = text.startsWith(label) ? text.slice(label.length) : ` ${text}`;
    row.append(link, ...withCode(rest));
  } else {
    row.append(...withCode(text));
  }
  return row;
}

// Commands in a message stand between backquotes: they are shown as code.
export function withCode(text) {
  return text.split(/`([^`]+)`/).map((part, place) => {
    if (place % 2 === 0) return part;
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  });
}

// Streamlit marks the element of the widget with key `place` by a class; what is no letter or digit becomes a dash.
export function find(place, root = document) {
  return root.querySelector(`.st-key-${CSS.escape(place)}`);
}

export function goTo(place, root = document) {
  const field = find(place, root);
  if (!field) return false;
  for (let fold = field.closest("details"); fold; fold = fold.parentElement.closest("details")) {
    if (!fold.open) fold.querySelector("summary").click();
  }
  reveal(field);
  return true;
}

// Waits until the folds are open: what is in a closed one is inert.
function reveal(field, tries = 50) {
  if (field.closest("[inert]") && tries) {
    setTimeout(reveal, 20, field, tries - 1);
    return;
  }
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  field.scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
  const part = field.querySelector("input, textarea") ?? field.querySelector("button, [tabindex]");
  part?.focus({ preventScroll: true });
}
