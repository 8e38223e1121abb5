// What axe-core does not measure, as appearance.py asks for it: ({ parts, focus, text }).
(() => {
  const parse = (text) => {
    const found = text.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    const scale = text.startsWith("color(srgb") ? 255 : 1;
    return [...found.slice(0, 3).map((value) => value * scale), found[3] ?? 1];
  };
  const over = (front, back) => [0, 1, 2].map((k) => front[k] * front[3] + back[k] * (1 - front[3])).concat(1);
  const parentOf = (node) => node.parentElement ?? node.getRootNode().host ?? null;
  // The colour that is seen behind a node's content.
  const ground = (node) => {
    const colours = [];
    for (let one = node; one; one = parentOf(one)) colours.push(parse(getComputedStyle(one).backgroundColor));
    return colours.reverse().reduce((back, front) => over(front, back), [255, 255, 255, 1]);
  };
  const linear = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, k) => sum + weight * linear(colour[k] / 255), 0);
  const contrast = (one, other) => {
    const [more, less] = [light(one), light(other)].sort((a, b) => b - a);
    return (more + 0.05) / (less + 0.05);
  };
  const all = (root = document) =>
    [...root.querySelectorAll("*")].flatMap((node) => [node, ...(node.shadowRoot ? all(node.shadowRoot) : [])]);
  const coloured = (node, colour) => contrast(over(parse(colour), ground(parentOf(node))), ground(parentOf(node)));
  const border = (node) => coloured(node, getComputedStyle(node).borderTopColor);
  const fill = (node) => contrast(ground(node), ground(parentOf(node)));

  const BOX = "[data-testid=stCheckbox] label:has(input:not([role=switch], :checked)) > span + div";
  const TRACK = "[data-testid=stCheckbox] label:has(input[role=switch]) > span + div";
  const PARTS = {
    "[data-testid=stNumberInputContainer]": border,
    "[data-testid=stTextInputRootElement]": border,
    "[data-testid=stTextAreaRootElement]": border,
    ".react-aria-ComboBox > [role=group]": border,
    "input[type=search]": border,
    [BOX]: border,
    [TRACK]: fill,
    [`${TRACK} > div`]: fill,
    "[data-testid=stSlider] div:has(> div > input[type=range])": fill, // what is moved
  };

  return {
    // [selector, contrast] of the borders of fields and boxes, of switches, and of their knobs.
    parts: () => all().flatMap((node) => {
      const { width, height } = node.getBoundingClientRect();
      if (!width || !height || node.closest("[inert]") || node.querySelector(":disabled")) return [];
      return Object.entries(PARTS).filter(([selector]) => node.matches(selector)).map(([selector, measure]) => [selector, measure(node)]);
    }),
    // [what has the focus, contrast of its outline]; null while nothing has it.
    focus: () => {
      let node = document.activeElement;
      while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
      if (!node || node === document.body) return null;
      let most = 0;
      for (let one = node, k = 0; one && k < 4; one = parentOf(one), k++) {
        const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(one);
        if (outlineStyle !== "none" && parseFloat(outlineWidth) >= 2) most = Math.max(most, coloured(one, outlineColor));
      }
      const words = node.getAttribute("aria-label") ?? node.innerText ?? "";
      return [`${node.tagName} ${node.getAttribute("role") ?? ""} ${words}`.slice(0, 80), most];
    },
    // Text of the page, but for code, the log and what is typed.
    text: () => all().filter((node) => !node.closest("code, pre, style, script, textarea, [role=log]"))
      .flatMap((node) => [...node.childNodes]).filter((part) => part.nodeType === Node.TEXT_NODE).map((part) => part.data).join("\n"),
  };
})()
