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
