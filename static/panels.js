// Which panels a chart has: one for a column, or for a loss in the four quarters of the timesteps.

const QUARTER = /^(.+)_q([0-3])$/;
const QUARTERS = ["least noisy quarter", "second", "third", "noisiest quarter"];

// Keys of what can be charted, the main ones first.
export function choices(all, main) {
  const found = [...main.filter((name) => all.includes(name))];
  for (const name of all) {
    const quarter = QUARTER.exec(name);
    const key = quarter && all.includes(quarter[1]) ? `${quarter[1]}_q` : name;
    if (!found.includes(key)) found.push(key);
  }
  return found;
}

// Keys of the panels that are shown unless others were chosen: the main ones, loss and mse once if they are the same.
export function usual(all, main, alike) {
  return main.filter((name) => all.includes(name) && !(alike && name === "mse"));
}

// What a panel holds: { key, title, lines: [{ column, label }] }
export function panelOf(key, all, alike) {
  const part = key.endsWith("_q") ? key.slice(0, -2) : null;
  if (part && all.includes(`${part}_q0`))
    return {
      key,
      title: `${part} by quarter of the timesteps`,
      lines: QUARTERS.map((label, k) => ({ column: `${part}_q${k}`, label })).filter(({ column }) => all.includes(column)),
    };
  return { key, title: alike && key === "loss" ? "loss = mse" : key, lines: [{ column: key, label: key }] };
}
