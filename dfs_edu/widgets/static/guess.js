// The page's part of guess.Guess and guess.Comparison: a question to answer, and the guess beside the measurement.
// In the page the question tells its comparisons what was guessed, whichever of them is there first.

const TOLD = "dfs-guess";
const WANTED = "dfs-guess-wanted";

// A guess or an answer as readers see it, as `written` in guess.py.
function written(value, { digits, low, unit }, signed = true) {
  if (typeof value === "string") return value;
  const shown = digits || (Number.isInteger(value) ? 0 : 1);
  const format = { minimumFractionDigits: shown, maximumFractionDigits: shown };
  const number = Math.abs(value).toLocaleString("en", format);
  const zero = !/[1-9]/.test(number);
  const sign = zero || !signed ? "" : value < 0 ? "−" : low < 0 ? "+" : "";
  return [sign + number, unit].filter(Boolean).join(" ");
}

// A button; JupyterLab's command mode would take Enter.
function press(parent, act) {
  const node = element("button", "dfs-button", parent);
  node.type = "button";
  node.dataset.lmSuppressShortcuts = "true";
  node.addEventListener("click", act);
  return node;
}

function status(parent, className) {
  const node = element("div", className, parent);
  node.setAttribute("role", "status");
  return node;
}

// Radio buttons, or a slider and a field; `picked` gets an answer, or null if there is none. Returns what sets them.
function answers(parent, setup, picked, commit) {
  if (setup.choices.length) {
    const check = choices(parent, "Your guess", setup.choices.map((choice) => [choice, choice]), picked);
    return (value, locked) => (check(value), (parent.querySelector("fieldset").disabled = locked));
  }
  const { low, high, step, unit } = setup;
  const box = element("fieldset", "dfs-number", parent);
  element("legend", "", box, "Your guess");
  const ends = (value) => written(value, { ...setup, unit: "" });
  element("span", "dfs-end", box, ends(low));
  const slider = range(box, "dfs-slide", unit ? `Your guess in ${unit}` : "Your guess", low, high, step, picked);
  element("span", "dfs-end", box, ends(high));
  const line = element("label", "dfs-field", box);
  const field = element("input", "", line);
  Object.assign(field, { type: "number", min: low, max: high, step });
  field.setAttribute("aria-label", `Your guess, from ${ends(low)} to ${ends(high)} ${unit}`.trim());
  field.dataset.lmSuppressShortcuts = "true";
  line.append(unit);
  field.addEventListener("input", () => {
    const value = field.valueAsNumber;
    picked(value >= low && value <= high ? value : null);
  });
  field.addEventListener("keydown", (event) => event.key === "Enter" && commit());
  return (value, locked) => {
    box.disabled = locked;
    box.classList.toggle("dfs-unset", value === null);
    slider.value = value ?? (low + high) / 2;
    slider.setAttribute("aria-valuetext", value === null ? "no guess yet" : written(value, setup));
    if (value !== null && field.valueAsNumber !== value) field.value = value;
    if (value === null && document.activeElement !== field) field.value = ""; // what is being typed stays
  };
}

function question(model, el, setup) {
  const root = frame(el, "dfs-guess", "your guess", setup.question);
  let draft = model.get("value");
  const set = (value) => {
    model.set("value", value);
    tell(model);
  };
  const commit = () => draft !== null && model.get("value") === null && set(draft);
  const show = answers(root, setup, (value) => ((draft = value), draw()), commit);
  const bar = element("div", "dfs-buttons", root);
  const button = press(bar, () => (model.get("value") === null ? commit() : set(null)));
  const says = status(bar, "dfs-says");

  const told = linked(model, setup.group, TOLD, () => {});
  const wanted = linked(model, setup.group, WANTED, (go) => {
    told.lead(model.get("value"));
    if (!go) return;
    root.scrollIntoView({ block: "center" });
    root.querySelector("input:enabled, button:enabled")?.focus({ preventScroll: true });
  });
  function draw() {
    const value = model.get("value");
    const locked = value !== null;
    show(locked ? value : draft, locked);
    root.classList.toggle("dfs-locked", locked);
    button.textContent = locked ? "Change my guess" : "Commit my guess";
    button.disabled = !locked && draft === null;
    const text = locked ? `Your guess: ${written(value, setup)}. Further down it is compared with the measurement.` : "";
    if (says.textContent !== text) says.textContent = text;
  }
  const stop = drawnAgain(model, ["value"], () => {
    draft = model.get("value") ?? draft;
    draw();
    told.lead(model.get("value"));
  });
  return () => (stop(), told.stop(), wanted.stop());
}

// What the guess was worth, in a sentence.
function verdict(value, { answer, how = "Measured", ...setup }) {
  const measured = `${how}: ${written(answer, setup)}.`;
  if (value === null) return measured;
  if (value === answer) return `Your guess was right: ${written(answer, setup)}.`;
  const both = `You guessed: ${written(value, setup)}. ${measured}`;
  if (typeof value === "string") return both;
  const off = written(Math.abs(value - answer), setup, false);
  if (!/[1-9]/.test(off.replace(setup.unit, ""))) return `${both} That is right to the digits shown.`;
  return `${both} Your guess was ${off} too ${value < answer ? "low" : "high"}.`;
}

// The choices, with the guess and the measurement marked.
function markedChoices(parent, { choices: options, answer }) {
  const list = element("ul", "dfs-options", parent);
  return (value) => {
    list.replaceChildren();
    for (const option of options) {
      const item = element("li", "", list, option);
      item.classList.toggle("dfs-measured", option === answer);
      if (option === value) element("span", "dfs-tag dfs-yours", item, "your guess");
      if (option === answer) element("span", "dfs-tag", item, "measured");
    }
  };
}

// A line of numbers with two marks: the guess above it, the measurement below it.
function markedLine(parent, setup) {
  const { low, high, answer } = setup;
  const [from, to] = [Math.min(low, answer), Math.max(high, answer)];
  const ends = { ...setup, unit: "" };
  const box = element("div", "dfs-axis", parent);
  box.setAttribute("aria-hidden", "true"); // the sentence above says it
  element("span", "dfs-end", box, written(from, ends));
  const line = element("div", "dfs-line", box);
  element("span", "dfs-end", box, written(to, ends));
  const mark = (className, text) => {
    const node = element("div", "dfs-at " + className, line);
    element("span", "", node, text);
    return (value) => {
      node.hidden = value === null;
      node.style.setProperty("--dfs-at", value === null ? "0%" : `${(100 * (value - from)) / (to - from)}%`);
    };
  };
  const yours = mark("dfs-above", "your guess");
  mark("dfs-below", "measured")(answer);
  return yours;
}

function comparison(model, el, setup) {
  const root = frame(el, "dfs-guess dfs-comparison", "guess and measurement", setup.question);
  const says = status(root, "dfs-verdict");
  const body = element("div", "dfs-body", root);
  const silent = Boolean(setup.silent);
  const mark = silent ? () => {} : (setup.choices.length ? markedChoices : markedLine)(body, setup);
  element("p", "dfs-why", body, setup.why ?? "").hidden = !setup.why;
  const bar = element("div", "dfs-buttons", root);
  const told = linked(model, setup.group, TOLD, (value) => {
    if (value === model.get("value")) return;
    model.set("value", value);
    tell(model);
  });
  const wanted = linked(model, setup.group, WANTED, () => {});
  press(bar, () => wanted.lead(true)).textContent = "Go to the question";
  const anyway = press(bar, () => {
    model.set("revealed", !model.get("revealed"));
    tell(model);
  });
  const stop = drawnAgain(model, ["value", "revealed"], () => {
    const [value, revealed] = ["value", "revealed"].map((name) => model.get(name));
    const open = !silent && (value !== null || revealed);
    body.hidden = !open;
    bar.hidden = silent || value !== null;
    anyway.textContent = revealed ? "Hide the answer" : "Show the answer anyway";
    if (open) mark(value);
    const yours = value === null ? "" : `You guessed: ${written(value, setup)}. `;
    const first = "Guess first: go back to the question and commit your guess. Then this shows both.";
    const text = silent ? yours + setup.silent : open ? verdict(value, setup) : first;
    if (says.textContent !== text) says.textContent = text;
  });
  wanted.lead(false); // the question may have been answered before this was shown
  return () => (stop(), told.stop(), wanted.stop());
}

async function render({ model, el }) {
  const setup = model.get("setup");
  return (setup.kind === "comparison" ? comparison : question)(model, el, setup);
}

export default { render };
