// Shared by all widgets: page.py puts it before their own code.

const percent = (fraction, digits = 1) => (fraction == null ? "–" : (100 * fraction).toFixed(digits) + " %");

function element(tag, className, parent, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

// The box of a widget, with its name for screen readers, and the title above it.
function frame(el, className, name, title) {
  const root = element("div", "dfs-widget " + className, el);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", [name, title].filter(Boolean).join(", "));
  if (title) element("div", "dfs-heading", root, title);
  return root;
}

// Widgets of one group, beside each other, follow each other: `lead` passes on what the reader chose in this one, and
// `follow` gets what was chosen in another.
function linked(model, group, kind, follow) {
  const listen = ({ detail }) => detail.group === group && detail.model !== model && follow(detail.value);
  if (group) document.addEventListener(kind, listen);
  return {
    lead: (value) => group && document.dispatchEvent(new CustomEvent(kind, { detail: { group, model, value } })),
    stop: () => document.removeEventListener(kind, listen),
  };
}

// Tell Python what was moved. While an earlier message is pending, only the latest value is kept: dragging causes no
// flood. A page outlives its kernel: then nobody listens, and the page goes on.
function tell(model) {
  try {
    model.save_changes();
  } catch (error) {
    console.info("no kernel listens", error);
  }
}

// An SVG element.
function shape(tag, className, attributes, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  node.setAttribute("class", className);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

// Draw now and whenever one of the traits changes, once for all that change together; returns what ends this.
function drawnAgain(model, traits, draw) {
  const names = traits.map((trait) => "change:" + trait).join(" ");
  let drawn = true;
  const later = () => {
    if (drawn) queueMicrotask(() => ((drawn = true), draw()));
    drawn = false;
  };
  model.on(names, later);
  draw();
  return () => model.off(names, later);
}

// A range input with its label; JupyterLab's command mode would take the arrow keys.
function range(parent, className, label, low, high, step, moved) {
  const input = element("input", className, parent);
  Object.assign(input, { type: "range", min: low, max: high, step });
  input.setAttribute("aria-label", label);
  input.dataset.lmSuppressShortcuts = "true";
  input.addEventListener("input", () => moved(Number(input.value)));
  return input;
}

// Radio buttons in a box with a name: [[value, text], ...].
function choices(parent, label, options, chosen) {
  const box = element("fieldset", "dfs-choices", parent);
  element("legend", "", box, label);
  const group = "dfs-" + Math.random().toString(36).slice(2);
  const inputs = options.map(([value, text]) => {
    const line = element("label", "", box);
    const input = element("input", "", line);
    Object.assign(input, { type: "radio", name: group, value });
    input.dataset.lmSuppressShortcuts = "true";
    input.addEventListener("change", () => chosen(value));
    line.append(text);
    return input;
  });
  return (value) => inputs.forEach((input) => (input.checked = input.value === value));
}
