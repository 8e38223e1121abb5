// Elements made in one line.  What comes from data is text, never markup.

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function drawing(tag, properties = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Query of an address; bytes of a name that are no text stay those bytes.
export function query(values) {
  return Object.entries(values).map(([name, value]) => `${name}=${encoded(String(value))}`).join("&");
}

function encoded(text) {
  return Array.from(text, (letter) => {
    const code = letter.codePointAt(0);
    if (code >= 0xdc80 && code < 0xdd00) return `%${(code - 0xdc00).toString(16)}`;
    return code >= 0xd800 && code < 0xe000 ? "%EF%BF%BD" : encodeURIComponent(letter);
  }).join("");
}
