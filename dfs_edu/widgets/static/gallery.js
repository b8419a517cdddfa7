// The page's part of gallery.ExitGallery. Everything is computed beforehand: a click or a key draws another part of two
// sheets, the images below each other and, for each method, the maps, with one row per image and one column per exit.
// It fetches nothing.

const SMALL = 48; // widths on the page, in pixels: of a thumbnail, of an exit's map, of the chosen image
const MIDDLE = 96;
const LARGE = 192;

function button(className, parent) {
  const node = element("button", className, parent);
  node.type = "button";
  node.dataset.lmSuppressShortcuts = "true"; // JupyterLab's command mode would take the arrow keys and Enter
  return node;
}

// A function that shows the part in a column and a row of a sheet with the given numbers of them.
function part(node, [height, width], columns, rows, wide) {
  const high = Math.round((height * wide) / width);
  Object.assign(node.style, { width: wide + "px", height: high + "px", backgroundSize: `${columns * wide}px ${rows * high}px` });
  return (column, row) => (node.style.backgroundPosition = `-${column * wide}px -${row * high}px`);
}

function grid(root, model, { images, size, label, classes }) {
  const box = element("div", "dfs-thumbnails", root);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "images");
  const choose = (n) => {
    model.set("image", n);
    model.save_changes(); // for Python, and for a reload of the page; the page does not wait for it
  };
  const thumbnails = label.map((name, n) => {
    const node = button("dfs-thumbnail dfs-photo", box);
    node.style.backgroundImage = `url(${images})`;
    part(node, size, 1, label.length, SMALL)(0, n);
    node.setAttribute("aria-label", `image ${n + 1}: ${classes[name]}`);
    node.title = classes[name];
    node.addEventListener("click", () => choose(n));
    return node;
  });
  const columns = () => thumbnails.filter((node) => node.offsetTop === thumbnails[0].offsetTop).length;
  box.addEventListener("keydown", (event) => {
    const last = label.length - 1;
    const n = model.get("image");
    const to = { ArrowLeft: n - 1, ArrowRight: n + 1, ArrowUp: n - columns(), ArrowDown: n + columns(), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault(); // the page would scroll
    if (to < 0 || to > last) return;
    choose(to);
    thumbnails[to].focus();
  });
  return () =>
    thumbnails.forEach((node, n) => {
      const chosen = n === model.get("image");
      node.setAttribute("aria-pressed", chosen);
      node.tabIndex = chosen ? 0 : -1; // one stop for the tab key, arrows from there
    });
}

function methods(root, model, names) {
  const box = element("div", "dfs-methods", root);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "maps by");
  const buttons = names.map((name) => {
    const node = button("dfs-method", box);
    node.textContent = name;
    node.addEventListener("click", () => {
      model.set("method", name);
      model.save_changes();
    });
    return node;
  });
  box.hidden = names.length < 2;
  return () => buttons.forEach((node, i) => node.setAttribute("aria-pressed", names[i] === model.get("method")));
}

function chosen(root, { images, size, label, classes }) {
  const box = element("div", "dfs-chosen", root);
  const image = element("div", "dfs-photo dfs-large", box);
  image.setAttribute("role", "img");
  image.style.backgroundImage = `url(${images})`;
  const place = part(image, size, 1, label.length, LARGE);
  element("div", "dfs-caption", box, "true class");
  const name = element("div", "dfs-truth", box);
  return (n) => {
    place(0, n);
    name.textContent = classes[label[n]];
    image.setAttribute("aria-label", `image ${n + 1}: ${classes[label[n]]}`);
  };
}

function exits(root, model, { images, size, maps, label, prediction, confidence, classes }) {
  const box = element("div", "dfs-exits", root);
  const K = prediction.length;
  const cards = prediction.map((_, k) => {
    const card = element("div", "dfs-exit", box);
    element("div", "dfs-name", card, `Exit ${k + 1}`);
    const stack = element("div", "dfs-stack", card);
    stack.setAttribute("role", "img");
    const grey = element("div", "dfs-photo dfs-grey", stack);
    const map = element("div", "dfs-photo dfs-map", stack);
    grey.style.backgroundImage = `url(${images})`;
    const placeGrey = part(grey, size, 1, label.length, MIDDLE);
    const placeMap = part(map, size, K, label.length, MIDDLE);
    const answer = element("div", "dfs-prediction", card);
    const level = element("div", "dfs-confidence", card);
    const bar = element("div", "dfs-bar", element("div", "dfs-track", card));
    return { card, stack, map, placeGrey, placeMap, answer, level, bar };
  });
  return (n, method) =>
    cards.forEach(({ card, stack, map, placeGrey, placeMap, answer, level, bar }, k) => {
      const right = prediction[k][n] === label[n];
      const name = classes[prediction[k][n]];
      map.style.backgroundImage = `url(${maps[method]})`;
      placeGrey(0, n);
      placeMap(k, n);
      stack.setAttribute("aria-label", `${method} of exit ${k + 1}, image ${n + 1}`);
      card.classList.toggle("dfs-wrong", !right);
      answer.textContent = (right ? "✓ " : "✗ ") + name;
      answer.title = `${name}, ${right ? "right" : "wrong"}`;
      level.textContent = `${percent(confidence[k][n])} confident`;
      bar.style.width = 100 * confidence[k][n] + "%";
    });
}

function render({ model, el }) {
  const setup = model.get("setup");
  const names = Object.keys(setup.maps);
  const root = frame(el, "dfs-exit-gallery", "where each exit looks", setup.title);
  const body = element("div", "dfs-body", root);
  const left = element("div", "dfs-left", body);
  element("div", "dfs-caption", left, "Choose an image: click, or use the arrow keys");
  const drawGrid = grid(left, model, setup);
  const right = element("div", "dfs-right", body);
  const drawChosen = chosen(right, setup);
  const drawMethods = methods(root, model, names);
  const drawExits = exits(root, model, setup);
  const status = element("div", "dfs-status", root); // for screen readers only: the page shows the same
  status.setAttribute("role", "status");
  const legend = element("div", "dfs-legend", root);
  element("span", "dfs-scale", legend);
  element("span", "", legend, "The lighter a pixel, the more it supports the class that the exit predicts. Each map has its own scale.");

  const draw = () => {
    const [n, method] = [model.get("image"), model.get("method")];
    drawGrid();
    drawMethods();
    drawChosen(n);
    drawExits(n, method);
    const answers = setup.prediction.map((row, k) => `exit ${k + 1} predicts ${setup.classes[row[n]]}, ${percent(setup.confidence[k][n])} confident`);
    status.textContent = `Image ${n + 1}, ${setup.classes[setup.label[n]]}, ${method}: ${answers.join("; ")}`;
  };
  const changes = "change:image change:method";
  model.on(changes, draw);
  draw();
  return () => model.off(changes, draw);
}

export default { render };
