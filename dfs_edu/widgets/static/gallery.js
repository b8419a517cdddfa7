// The page's part of gallery.ExitGallery. Everything is computed beforehand: a click or a key draws another part of two
// sheets, the images below each other and, for each method, the maps, with one row per image and one column per exit.
// It fetches nothing. Without images (the data set is elsewhere), the images are named by their classes.

const SMALL = 48; // widths on the page, in pixels: of a thumbnail, of an exit's map, of the chosen image
const MIDDLE = 96;
const LARGE = 192;
const ORDERS = ["as they come", "most disagreement first"]; // as in gallery.py
const HOW = "Choose an image: click, or use the arrow keys";
const LEGEND = "the lighter a pixel, the more it supports the class that the exit predicts. Each map has its own scale.";
const MARKS = "Below a class, one mark for each exit: filled if it is right, hollow if it is wrong.";
const DISAGREE = "Two exits disagree if they predict different classes.";

// For each image, how many pairs of exits predict different classes, as Outputs.disagreement in Python; the networks of
// a row are counted together. A prediction has one row per exit and one column per image.
function disagreement(networks) {
  const counts = new Array(networks[0][0].length).fill(0);
  for (const exits of networks) {
    exits.forEach((row, k) => exits.slice(k + 1).forEach((other) => row.forEach((answer, n) => (counts[n] += answer !== other[n]))));
  }
  return counts;
}

// The images in an order; those that are equal stay as they come.
function ordered(counts, order) {
  const all = counts.map((_, n) => n);
  return order === ORDERS[1] ? all.sort((a, b) => counts[b] - counts[a]) : all;
}

function button(className, parent, text) {
  const node = element("button", className, parent, text);
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

// The sheet that an element shows a part of; without images there is none.
function sheet(node, address) {
  if (address) node.style.backgroundImage = `url(${address})`;
}

// One of several: a row of buttons, one of them pressed.
function choice(root, className, label, names, choose) {
  const box = element("div", "dfs-choice " + className, root);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", label);
  const buttons = names.map((name) => button("dfs-option", box, name));
  buttons.forEach((node, i) => node.addEventListener("click", () => choose(names[i])));
  box.hidden = names.length < 2;
  return (chosen) => buttons.forEach((node, i) => node.setAttribute("aria-pressed", names[i] === chosen));
}

// What one can click: the image, or where there is none its class, with a mark for each exit that is right or wrong.
function thumbnail(box, n, { images, size, label, prediction, classes }) {
  const name = classes[label[n]];
  const node = button(images ? "dfs-thumbnail dfs-photo" : "dfs-thumbnail dfs-chip", box);
  const right = prediction.filter((row) => row[n] === label[n]).length;
  node.setAttribute("aria-label", `image ${n + 1}: ${name}`);
  node.title = `${name}: ${right} of ${prediction.length} exits are right`;
  if (images) {
    sheet(node, images);
    part(node, size, 1, label.length, SMALL)(0, n);
    return node;
  }
  element("span", "dfs-number", node, n + 1);
  element("span", "dfs-class", node, name);
  const marks = element("span", "dfs-marks", node);
  for (const row of prediction) element("span", row[n] === label[n] ? "dfs-right" : "dfs-false", marks);
  return node;
}

// Scroll a box, but not the page, so that a node in it is seen.
function show(box, node) {
  const [top, bottom] = [node.offsetTop - box.offsetTop, node.offsetTop - box.offsetTop + node.offsetHeight];
  if (top < box.scrollTop) box.scrollTop = top - 4;
  if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight + 4;
}

function grid(root, setup, counts, choose) {
  const box = element("div", "dfs-thumbnails", root);
  box.classList.toggle("dfs-chips", !setup.images);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "images");
  const thumbnails = counts.map((_, n) => thumbnail(box, n, setup));
  thumbnails.forEach((node, n) => node.addEventListener("click", () => choose(n)));
  let [chosen, order, place] = [0, "", []];

  const columns = () => place.filter((n) => thumbnails[n].offsetTop === thumbnails[place[0]].offsetTop).length;
  box.addEventListener("keydown", (event) => {
    const [at, last] = [place.indexOf(chosen), place.length - 1];
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns(), ArrowDown: at + columns(), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault(); // the page would scroll
    if (to < 0 || to > last) return;
    choose(place[to]);
    thumbnails[place[to]].focus();
  });
  return (n, wanted) => {
    chosen = n;
    if (order !== wanted) {
      order = wanted;
      place = ordered(counts, order);
      box.append(...place.map((i) => thumbnails[i]));
    }
    thumbnails.forEach((node, i) => {
      node.setAttribute("aria-pressed", i === n);
      node.tabIndex = i === n ? 0 : -1; // one stop for the tab key, arrows from there
    });
    show(box, thumbnails[n]);
  };
}

function chosen(root, { images, size, label, classes, prediction, missing }) {
  const box = element("div", "dfs-chosen", root);
  const image = element("div", "dfs-photo dfs-large", box);
  image.setAttribute("role", "img");
  sheet(image, images);
  image.hidden = !images;
  const place = part(image, size, 1, label.length, LARGE);
  const words = element("div", "dfs-words", box);
  element("div", "dfs-caption", words, "true class");
  const name = element("div", "dfs-truth", words);
  const pairs = element("div", "dfs-caption dfs-pairs", words);
  if (missing) element("p", "dfs-missing", words, missing);
  const counts = disagreement([prediction]);
  const most = (prediction.length * (prediction.length - 1)) / 2;
  return (n) => {
    place(0, n);
    name.textContent = classes[label[n]];
    pairs.textContent = most ? `${counts[n]} of ${most} pairs of exits disagree` : "";
    image.setAttribute("aria-label", `image ${n + 1}: ${classes[label[n]]}`);
  };
}

function cards(root, { images, size, maps, label, prediction, confidence, classes }) {
  const box = element("div", "dfs-exits", root);
  const K = prediction.length;
  const all = prediction.map((_, k) => {
    const card = element("div", "dfs-exit", box);
    element("div", "dfs-name", card, `Exit ${k + 1}`);
    const stack = element("div", "dfs-stack", card);
    stack.setAttribute("role", "img");
    stack.hidden = !Object.keys(maps).length;
    const grey = element("div", "dfs-photo dfs-grey", stack);
    const map = element("div", "dfs-photo dfs-map", stack);
    sheet(grey, images);
    const placeGrey = part(grey, size, 1, label.length, MIDDLE);
    const placeMap = part(map, size, K, label.length, MIDDLE);
    const answer = element("div", "dfs-prediction", card);
    const level = element("div", "dfs-confidence", card);
    const bar = element("div", "dfs-bar", element("div", "dfs-track", card));
    return { card, stack, map, placeGrey, placeMap, answer, level, bar };
  });
  return (n, method) =>
    all.forEach(({ card, stack, map, placeGrey, placeMap, answer, level, bar }, k) => {
      const right = prediction[k][n] === label[n];
      const name = classes[prediction[k][n]];
      sheet(map, maps[method]);
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

function legend(root, { images, maps, beside }) {
  const box = element("div", "dfs-legend", root);
  const names = Object.keys(maps);
  if (names.length) {
    const line = element("div", "dfs-heat", box);
    element("span", "dfs-scale", line);
    element("span", "", line, `${names.length === 1 ? names[0] : "Maps"}: ${LEGEND}`);
  }
  element("div", "", box, (images ? "" : MARKS + " ") + DISAGREE + (beside.length ? " The order counts the pairs of all networks beside each other." : ""));
}

// For screen readers only: the page shows the same.
function announcer(root, { label, prediction, confidence, classes }) {
  const status = element("div", "dfs-status", root);
  status.setAttribute("role", "status");
  return (n, method) => {
    const answers = prediction.map((row, k) => `exit ${k + 1} predicts ${classes[row[n]]}, ${percent(confidence[k][n])} confident`);
    status.textContent = `${[`Image ${n + 1}`, classes[label[n]], method].filter(Boolean).join(", ")}: ${answers.join("; ")}`;
  };
}

function render({ model, el }) {
  const setup = model.get("setup");
  const names = Object.keys(setup.maps);
  // What is chosen here is chosen in the galleries beside it, as far as they have it
  const put = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    tell(model);
  };
  const group = linked(model, setup.group, "dfs-gallery", ({ method, ...values }) => put(names.includes(method) ? { method, ...values } : values));
  const choose = (values) => {
    put(values);
    group.lead(values);
  };

  const root = frame(el, "dfs-exit-gallery", "where each exit looks", setup.title);
  const body = element("div", "dfs-body", root);
  const left = element("div", "dfs-left", body);
  element("div", "dfs-caption", left, HOW);
  const drawOrder = choice(left, "dfs-orders", "order of the images", ORDERS, (order) => choose({ order }));
  const drawGrid = grid(left, setup, disagreement([setup.prediction, ...setup.beside]), (image) => choose({ image }));
  const right = element("div", "dfs-right", body);
  const drawChosen = chosen(right, setup);
  const drawMethods = choice(root, "dfs-methods", "maps by", names, (method) => choose({ method }));
  const drawExits = cards(root, setup);
  const announce = announcer(root, setup);
  legend(root, setup);

  const draw = () => {
    const [n, method, order] = ["image", "method", "order"].map((name) => model.get(name));
    drawOrder(order);
    drawGrid(n, order);
    drawMethods(method);
    drawChosen(n);
    drawExits(n, method);
    announce(n, method);
  };
  const changes = "change:image change:method change:order";
  model.on(changes, draw);
  draw();
  return () => {
    model.off(changes, draw);
    group.stop();
  };
}

export default { render };
