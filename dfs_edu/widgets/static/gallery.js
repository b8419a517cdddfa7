// The page's side of gallery.ExitGallery. All is here beforehand: a click or a key draws another part of two pictures,
// the photos below each other and, for each way, the maps: a row a photo, a column an exit. Nothing is fetched.

const SMALL = 48; // widths on the page, in pixels: in the grid, of an exit, of the chosen picture
const MIDDLE = 96;
const LARGE = 192;

function button(className, parent) {
  const node = element("button", className, parent);
  node.type = "button";
  node.dataset.lmSuppressShortcuts = "true"; // JupyterLab's command mode would take the arrow keys and Enter
  return node;
}

// Shows the part in a column and a row of a sheet with so many of them.
function part(node, [height, width], columns, rows, wide) {
  const high = Math.round((height * wide) / width);
  Object.assign(node.style, { width: wide + "px", height: high + "px", backgroundSize: `${columns * wide}px ${rows * high}px` });
  return (column, row) => (node.style.backgroundPosition = `-${column * wide}px -${row * high}px`);
}

function grid(root, model, { photos, size, label, classes }) {
  const box = element("div", "dfs-thumbnails", root);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "pictures");
  const choose = (n) => {
    model.set("picture", n);
    model.save_changes(); // so that Python knows it and a reload of the page finds it; the page does not wait
  };
  const thumbnails = label.map((name, n) => {
    const node = button("dfs-thumbnail dfs-photo", box);
    node.style.backgroundImage = `url(${photos})`;
    part(node, size, 1, label.length, SMALL)(0, n);
    node.setAttribute("aria-label", `picture ${n + 1}: ${classes[name]}`);
    node.title = classes[name];
    node.addEventListener("click", () => choose(n));
    return node;
  });
  const columns = () => thumbnails.filter((node) => node.offsetTop === thumbnails[0].offsetTop).length;
  box.addEventListener("keydown", (event) => {
    const last = label.length - 1;
    const n = model.get("picture");
    const to = { ArrowLeft: n - 1, ArrowRight: n + 1, ArrowUp: n - columns(), ArrowDown: n + columns(), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault(); // the page would scroll
    if (to < 0 || to > last) return;
    choose(to);
    thumbnails[to].focus();
  });
  return () =>
    thumbnails.forEach((node, n) => {
      const chosen = n === model.get("picture");
      node.setAttribute("aria-pressed", chosen);
      node.tabIndex = chosen ? 0 : -1; // one stop for the tab key, arrows from there
    });
}

function ways(root, model, names) {
  const box = element("div", "dfs-ways", root);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "maps by");
  const buttons = names.map((name) => {
    const node = button("dfs-way", box);
    node.textContent = name;
    node.addEventListener("click", () => {
      model.set("way", name);
      model.save_changes();
    });
    return node;
  });
  box.hidden = names.length < 2;
  return () => buttons.forEach((node, i) => node.setAttribute("aria-pressed", names[i] === model.get("way")));
}

function chosen(root, { photos, size, label, classes }) {
  const box = element("div", "dfs-chosen", root);
  const image = element("div", "dfs-photo dfs-large", box);
  image.setAttribute("role", "img");
  image.style.backgroundImage = `url(${photos})`;
  const place = part(image, size, 1, label.length, LARGE);
  element("div", "dfs-caption", box, "true class");
  const name = element("div", "dfs-truth", box);
  return (n) => {
    place(0, n);
    name.textContent = classes[label[n]];
    image.setAttribute("aria-label", `picture ${n + 1}, a photo: ${classes[label[n]]}`);
  };
}

function exits(root, model, { photos, size, ways, label, prediction, confidence, classes }) {
  const box = element("div", "dfs-exits", root);
  const K = prediction.length;
  const cards = prediction.map((_, k) => {
    const card = element("div", "dfs-exit", box);
    element("div", "dfs-name", card, `Exit ${k + 1}`);
    const stack = element("div", "dfs-stack", card);
    stack.setAttribute("role", "img");
    const grey = element("div", "dfs-photo dfs-grey", stack);
    const map = element("div", "dfs-photo dfs-map", stack);
    grey.style.backgroundImage = `url(${photos})`;
    const placeGrey = part(grey, size, 1, label.length, MIDDLE);
    const placeMap = part(map, size, K, label.length, MIDDLE);
    const said = element("div", "dfs-said", card);
    const sure = element("div", "dfs-sure", card);
    const bar = element("div", "dfs-bar", element("div", "dfs-track", card));
    return { card, stack, map, placeGrey, placeMap, said, sure, bar };
  });
  return (n, way) =>
    cards.forEach(({ card, stack, map, placeGrey, placeMap, said, sure, bar }, k) => {
      const right = prediction[k][n] === label[n];
      const name = classes[prediction[k][n]];
      map.style.backgroundImage = `url(${ways[way]})`;
      placeGrey(0, n);
      placeMap(k, n);
      stack.setAttribute("aria-label", `${way} of exit ${k + 1}, picture ${n + 1}`);
      card.classList.toggle("dfs-wrong", !right);
      said.textContent = (right ? "✓ " : "✗ ") + name;
      said.title = `${name}, ${right ? "right" : "wrong"}`;
      sure.textContent = `${percent(confidence[k][n])} sure`;
      bar.style.width = 100 * confidence[k][n] + "%";
    });
}

function render({ model, el }) {
  const setup = model.get("setup");
  const names = Object.keys(setup.ways);
  const root = frame(el, "dfs-looking", "where each exit looks", setup.title);
  const body = element("div", "dfs-body", root);
  const left = element("div", "dfs-left", body);
  element("div", "dfs-caption", left, "Choose a picture: click, or arrow keys");
  const drawGrid = grid(left, model, setup);
  const right = element("div", "dfs-right", body);
  const drawChosen = chosen(right, setup);
  const drawWays = ways(root, model, names);
  const drawExits = exits(root, model, setup);
  const status = element("div", "dfs-status", root); // read out, not seen: the page shows it already
  status.setAttribute("role", "status");
  const legend = element("div", "dfs-legend", root);
  element("span", "dfs-scale", legend);
  element("span", "", legend, "The lighter, the more speaks there for the class that the exit names; each map has its own scale.");

  const draw = () => {
    const [n, way] = [model.get("picture"), model.get("way")];
    drawGrid();
    drawWays();
    drawChosen(n);
    drawExits(n, way);
    const says = setup.prediction.map((said, k) => `exit ${k + 1} says ${setup.classes[said[n]]}, ${percent(setup.confidence[k][n])} sure`);
    status.textContent = `Picture ${n + 1}, ${setup.classes[setup.label[n]]}, ${way}: ${says.join("; ")}`;
  };
  const changes = "change:picture change:way";
  model.on(changes, draw);
  draw();
  return () => model.off(changes, draw);
}

export default { render };
