// The page's part of diagram.NetworkDiagram. Python drew the network and listed, for every junction, beta and exit, the
// attributes that differ: a move looks them up and sets those that change. Nothing is fetched.

const HINT = "Choose an exit in the drawing to light up its forward path and the path of its gradient.";
let diagrams = 0; // radio buttons of one page need different names

function action(node) {
  node.dataset.lmSuppressShortcuts = "true"; // JupyterLab's command mode would take the arrow keys and Enter
  return node;
}

function chooser(root, model, junctions) {
  const box = element("fieldset", "dfs-junctions", root);
  element("legend", "dfs-name", box, "Junction");
  const group = `dfs-junction-${diagrams++}-${Math.random()}`;
  const inputs = junctions.map(([name]) => {
    const label = element("label", "dfs-junction", box);
    const input = action(element("input", "", label));
    Object.assign(input, { type: "radio", name: group, value: name });
    element("span", "", label, name);
    input.addEventListener("change", () => {
      model.set("junction", name);
      tell(model);
    });
    return input;
  });
  const words = element("div", "dfs-words", root);
  return (junction) => {
    for (const input of inputs) input.checked = input.value === junction;
    words.textContent = junctions.find(([name]) => name === junction)[1];
  };
}

function slider(root, model, betas) {
  const label = element("label", "dfs-beta-row", root);
  element("span", "dfs-name", label, "beta");
  const input = action(element("input", "dfs-beta", label));
  Object.assign(input, { type: "range", min: 0, max: betas.length - 1, step: 1 });
  input.setAttribute("aria-label", "beta, the fraction of channels in f+");
  const value = element("output", "dfs-beta-value", label);
  input.addEventListener("input", () => {
    model.set("beta", betas[Number(input.value)]);
    tell(model);
  });
  return (beta, matters) => {
    input.value = betas.indexOf(beta);
    input.disabled = !matters;
    input.setAttribute("aria-valuetext", beta.toFixed(2));
    value.textContent = matters ? beta.toFixed(2) : "no beta";
  };
}

function numbers(root, weights) {
  const box = element("div", "dfs-head", root);
  box.setAttribute("role", "status");
  const tile = (className, caption) => {
    const place = element("div", "dfs-tile", box);
    element("div", "dfs-caption", place, caption);
    const value = element("div", className, place);
    element("div", "dfs-caption", place, `of ${weights.toLocaleString("en")} in the trunk`);
    return value;
  };
  const conflict = tile("dfs-conflict", "Weights in conflict");
  const several = tile("dfs-several", "Pulled by several exits");
  return (opposed, pulled) => {
    conflict.textContent = opposed.toLocaleString("en");
    several.textContent = pulled.toLocaleString("en");
  };
}

// The drawing. Each exit is a button: pressed again, it lets go.
function drawing(root, model, svg, { places, table }) {
  const image = document.importNode(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement, true);
  image.setAttribute("role", "group");
  image.setAttribute("aria-label", "the network: choose an exit to light up its paths");
  root.append(image);
  const exits = [...image.querySelectorAll("[data-exit]")];
  for (const exit of exits) {
    const number = Number(exit.dataset.exit);
    const toggle = () => {
      model.set("exit", model.get("exit") === number ? 0 : number);
      tell(model);
    };
    action(exit).setAttribute("role", "button");
    exit.setAttribute("tabindex", "0");
    exit.addEventListener("click", toggle);
    exit.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault(); // the page would scroll
      toggle();
    });
  }
  const nodes = new Map([...image.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  const shown = places.map(() => -1);
  return (row, chosen) => {
    places.forEach(([part, attribute], i) => {
      if (row[i] === shown[i] || !nodes.has(part)) return;
      shown[i] = row[i];
      const node = nodes.get(part);
      if (attribute === "text") node.textContent = table[row[i]];
      else node.setAttribute(attribute, table[row[i]]);
    });
    for (const exit of exits) exit.setAttribute("aria-pressed", Number(exit.dataset.exit) === chosen);
  };
}

async function render({ model, el }) {
  const { title, svg, junctions, betas, weights, note, layout } = model.get("setup");
  const packed = await unpacked(model.get("states"), layout);
  const states = JSON.parse(new TextDecoder().decode(packed.states));
  const root = frame(el, "dfs-diagram", "network diagram", title);
  const body = element("div", "dfs-body", root);
  const left = element("div", "dfs-left", body);
  const drawJunction = chooser(left, model, junctions);
  const drawBeta = slider(left, model, betas);
  const drawNumbers = numbers(left, weights);
  const status = element("div", "dfs-status", left);
  status.setAttribute("role", "status");
  const drawNetwork = drawing(element("div", "dfs-right", body), model, svg, states);
  element(
    "div",
    "dfs-note",
    root,
    "Solid lines mark the channels that are seen, dashed lines those that receive a gradient; ← names the exits that it comes from. " +
      `A weight is in conflict if two exits pull it in opposite directions; the grey part of a stage is the share of these weights. ${note}`,
  );

  // States come junction by junction; those that beta does not change have one
  const starts = new Map();
  junctions.reduce((at, [name, , cut]) => (starts.set(name, at), at + (cut ? betas.length : 1)), 0);
  const draw = () => {
    const [junction, beta, exit] = ["junction", "beta", "exit"].map((name) => model.get(name));
    const matters = junctions.find(([name]) => name === junction)[2];
    const state = starts.get(junction) + (matters ? betas.indexOf(beta) : 0);
    const row = states.rows[state * (states.rows.length / states.opposed.length) + exit];
    drawJunction(junction);
    drawBeta(beta, matters);
    drawNumbers(states.opposed[state], states.several[state]);
    drawNetwork(row, exit);
    status.textContent = exit ? states.table[row.at(-1)] : HINT;
  };
  const choices = "change:junction change:beta change:exit";
  model.on(choices, draw);
  draw();
  return () => model.off(choices, draw);
}

export default { render };
