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

const HELD_OUT = "eval_mse"; // its panel of one run has the training images beside it, and the averages of the weights
const AVERAGE = /^eval_ema_(.+)_mse$/;

function heldOut(all, several) {
  const lines = [{ column: HELD_OUT, label: "held-out" }];
  if (several) return { key: HELD_OUT, title: "held-out loss", lines };
  if (all.includes("eval_train_mse")) lines.push({ column: "eval_train_mse", label: "training" });
  for (const column of all) {
    const average = AVERAGE.exec(column);
    if (average) lines.push({ column, label: `held-out, EMA ${average[1]}` });
  }
  return { key: HELD_OUT, title: "held-out loss", lines };
}

// Whether rows of a column have a value now and then.
export function isSparse(column, main) {
  return column.startsWith("eval_") || !main.includes(column);
}

// What a panel holds: { key, title, lines: [{ column, label }] }
export function panelOf(key, all, alike, several) {
  if (key === HELD_OUT) return heldOut(all, several);
  const part = key.endsWith("_q") ? key.slice(0, -2) : null;
  if (part && all.includes(`${part}_q0`))
    return {
      key,
      title: `${part} by quarter of the timesteps`,
      lines: QUARTERS.map((label, k) => ({ column: `${part}_q${k}`, label })).filter(({ column }) => all.includes(column)),
    };
  return { key, title: alike && key === "loss" ? "loss = mse" : key, lines: [{ column: key, label: key }] };
}
