// A command for a shell, and a button that copies it.

const AGAIN = 2000; // milliseconds for which it says that it was copied

export function mount({ parentElement, data }) {
  const line = parentElement.querySelector("code");
  const button = parentElement.querySelector("button");
  let timer = 0;
  const say = (text) => { button.textContent = text; };
  show(line, data.line);
  say("Copy");
  button.addEventListener("click", async () => {
    clearTimeout(timer);
    say((await copy(line)) ? "Copied" : "Press Ctrl+C");
    timer = setTimeout(say, AGAIN, "Copy");
  });
  return {
    update: (component) => show(line, component.data.line),
    leave: () => clearTimeout(timer),
  };
}

// Lines are broken between words alone: a browser would break them within --flags, too.
function show(line, text) {
  const words = text.split(" ").map((word) => Object.assign(document.createElement("span"), { textContent: word }));
  line.replaceChildren(...words.flatMap((word, k) => (k ? [" ", word] : [word])));
}

// Whether the text of an element is in the clipboard now; where a browser does not allow that, it is selected.
export async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch { // not over plain http from another computer, and not where the user said no
    getSelection().selectAllChildren(element);
    return false;
  }
}
