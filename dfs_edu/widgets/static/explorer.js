// The page's part of explorer.ThresholdExplorer: it computes and draws, and tells Python, if there is one, where the
// sliders are. It fetches nothing: the plot is inline SVG, and the images come as one data URI.

const MMAC = 1e6;
const EACH = 6; // images at each exit
const BINS = 40; // of the histograms of confidence
const RARE = 100; // one image in so many counts as next to none
const PLOT = { width: 420, height: 290, left: 46, right: 12, top: 12, bottom: 42 };

const mmacs = (macs) => (macs < 1000 * MMAC ? (macs / MMAC).toPrecision(4) : (macs / MMAC).toFixed(0)) + " MMACs";

function header(root) {
  const head = element("div", "dfs-head", root);
  head.setAttribute("role", "status");
  head.setAttribute("aria-live", "polite");
  const tile = (className, caption) => {
    const box = element("div", "dfs-tile", head);
    element("div", "dfs-caption", box, caption);
    return { caption: box.firstChild, value: element("div", className, box), detail: element("div", "dfs-detail", box) };
  };
  const [accuracy, macs, source] = [tile("dfs-accuracy", ""), tile("dfs-macs", "Average cost per image"), tile("dfs-source", "Thresholds")];
  return ({ macs: costs, splits: [[validation, fitted], [test, tested]] }, result) => {
    accuracy.caption.textContent = `Accuracy on ${test}`;
    accuracy.value.textContent = percent(result.accuracy, 2);
    accuracy.detail.textContent = `measured on ${tested.toLocaleString("en")} images`;
    macs.value.textContent = mmacs(result.macs);
    macs.detail.textContent = `${percent(result.macs / costs.at(-1))} of the whole network`;
    source.value.textContent = result.fitted ? "fitted" : "set by hand";
    source.detail.textContent = result.fitted
      ? `to the budget, on ${fitted.toLocaleString("en")} ${validation} images`
      : `the budget shows their cost on ${validation}`;
  };
}

// The confidences of the images that reach an exit. Those at or above the threshold, which leave, are coloured. The
// slider below has the same scale.
function histogram(root) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "dfs-histogram");
  svg.setAttribute("viewBox", "0 0 1 1");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true"); // shares and accuracies say the same in words
  root.append(svg);
  const [stay, leave, mark] = ["dfs-stay", "dfs-leave", "dfs-threshold-mark"].map((className) => {
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("class", className);
    svg.append(path);
    return path;
  });
  return (counts, threshold, highest) => {
    const bar = (n, i) => {
      const height = Math.sqrt(n / highest); // the root keeps small counts visible beside large ones
      return n ? `M${i / counts.length},1v${-height}h${0.9 / counts.length}v${height}z` : "";
    };
    const leaves = (i) => (i + 0.5) / counts.length >= threshold;
    stay.setAttribute("d", counts.map((n, i) => (leaves(i) ? "" : bar(n, i))).join(""));
    leave.setAttribute("d", counts.map((n, i) => (leaves(i) ? bar(n, i) : "")).join(""));
    mark.setAttribute("d", `M${threshold},0v1`);
  };
}

function controls(root, setup, move) {
  const { macs, splits, steps } = setup;
  const box = element("div", "dfs-controls", root);
  const [low, high] = [macs[0], macs.at(-1)];

  element("span", "dfs-name", box, "Budget");
  const budgetRow = element("div", "dfs-budget-row", box);
  const budget = range(budgetRow, "dfs-budget", "budget", 0, steps, 1, move.toPlace);
  const budgetValue = element("output", "dfs-budget-value", budgetRow);

  for (const [className, title] of [["", ""], ["", "threshold"], ["", ""], ["", "leave here"], ["dfs-number", "accuracy"]]) {
    element("span", "dfs-title " + className, box, title);
  }
  const rows = macs.map((_, k) => {
    element("span", "dfs-name", box, `Exit ${k + 1}`);
    const last = k === macs.length - 1;
    const cell = element("div", "dfs-cell", box);
    const drawHistogram = histogram(cell);
    const input = last ? element("span", "dfs-all", cell, "the rest") : range(cell, "dfs-threshold", `threshold of exit ${k + 1}`, 0, 1, 0.01, (value) => move.threshold(k, value));
    const value = element("output", "dfs-number", box);
    const share = element("div", "dfs-share", box);
    const bar = element("div", "dfs-bar", element("div", "dfs-track", share));
    return { input, drawHistogram, value, bar, shareValue: element("span", "dfs-number dfs-share-value", share), accuracy: element("span", "dfs-number dfs-exit-accuracy", box) };
  });
  const sliders = rows.slice(0, -1);
  const idle = element("div", "dfs-idle", box);
  idle.setAttribute("role", "note");

  return ({ thresholds, budget: spent, ...result }) => {
    budget.value = high > low ? Math.round((steps * (spent - low)) / (high - low)) : steps;
    budgetValue.textContent = mmacs(spent);
    budget.setAttribute("aria-valuetext", `${mmacs(spent)} on ${splits[0][0]}`);
    const highest = Math.max(...result.histogram.flat()) || 1;
    rows.forEach(({ input, drawHistogram, value, bar, shareValue, accuracy }, k) => {
      drawHistogram(result.histogram[k], thresholds[k], highest);
      if (k < sliders.length) {
        input.value = thresholds[k];
        value.textContent = thresholds[k].toFixed(3);
        input.setAttribute("aria-valuetext", thresholds[k].toFixed(3));
      }
      bar.style.width = 100 * result.share[k] + "%";
      shareValue.textContent = percent(result.share[k]);
      accuracy.textContent = percent(result.exitAccuracy[k]);
    });
    idle.replaceChildren(...result.idle.map((text) => element("p", "", null, text)));
  };
}

function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((s) => s * power >= raw);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function plot(root, { macs, curve, anytime, splits }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "dfs-plot");
  svg.setAttribute("viewBox", `0 0 ${PLOT.width} ${PLOT.height}`);
  svg.setAttribute("role", "img");
  root.append(svg);
  const draw = (tag, className, attributes, text) => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    node.setAttribute("class", className);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
    return node;
  };

  const [xs, ys] = [[...curve[0], ...macs].map((m) => m / MMAC), [...curve[1], ...anytime].map((a) => 100 * a)];
  const range = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = 0.06 * (high - low || 1);
    return [low - pad, high + pad];
  };
  const [x0, x1] = range(xs);
  const [y0, y1] = range(ys);
  const [right, bottom] = [PLOT.width - PLOT.right, PLOT.height - PLOT.bottom];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const x = (m) => clamp(PLOT.left + ((m / MMAC - x0) / (x1 - x0)) * (right - PLOT.left), PLOT.left, right);
  const y = (a) => clamp(bottom - ((100 * a - y0) / (y1 - y0)) * (bottom - PLOT.top), PLOT.top, bottom);

  for (const tick of ticks(x0, x1, 6)) {
    draw("line", "dfs-grid", { x1: x(tick * MMAC), x2: x(tick * MMAC), y1: PLOT.top, y2: bottom });
    draw("text", "dfs-tick", { x: x(tick * MMAC), y: bottom + 16, "text-anchor": "middle" }, tick);
  }
  for (const tick of ticks(y0, y1, 5)) {
    draw("line", "dfs-grid", { x1: PLOT.left, x2: right, y1: y(tick / 100), y2: y(tick / 100) });
    draw("text", "dfs-tick", { x: PLOT.left - 6, y: y(tick / 100) + 4, "text-anchor": "end" }, tick);
  }
  const test = splits[1][0];
  draw("text", "dfs-axis", { x: (PLOT.left + right) / 2, y: PLOT.height - 6, "text-anchor": "middle" }, "average cost in MMACs per image");
  const middle = (PLOT.top + bottom) / 2;
  draw("text", "dfs-axis", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, `accuracy on ${test} in %`);
  draw("path", "dfs-curve", { d: "M" + curve[0].map((m, i) => `${x(m).toFixed(1)},${y(curve[1][i]).toFixed(1)}`).join("L") });
  macs.forEach((m, k) => {
    draw("rect", "dfs-anytime", { x: x(m) - 3.5, y: y(anytime[k]) - 3.5, width: 7, height: 7 });
    draw("text", "dfs-tick", { x: x(m) + 7, y: y(anytime[k]) + (k === macs.length - 1 ? 18 : 14), "text-anchor": k === macs.length - 1 ? "end" : "start" }, k + 1);
  });
  const drop = draw("path", "dfs-drop", {});
  const point = draw("circle", "dfs-point", { r: 7 });
  return (result) => {
    const [px, py] = [x(result.macs), y(result.accuracy)];
    point.setAttribute("cx", px);
    point.setAttribute("cy", py);
    drop.setAttribute("d", `M${PLOT.left},${py}H${px}V${bottom}`);
    svg.setAttribute("aria-label", `Accuracy against average cost. Now ${percent(result.accuracy, 2)} at ${mmacs(result.macs)}.`);
  };
}

function gallery(root, { macs, sprite, size, labels, classes }) {
  if (!sprite) return () => {}; // the data set is not where the explorer was made
  const box = element("div", "dfs-gallery", root);
  const zoom = 56 / size[1];
  const names = classes.map((name) => name.replaceAll("_", " "));
  const exits = macs.map((_, k) => {
    const column = element("div", "dfs-leavers", box);
    element("div", "dfs-name", column, `Leave at exit ${k + 1}`);
    const grid = element("div", "dfs-images", column);
    const empty = element("div", "dfs-empty", column, "none of the images shown");
    const places = Array.from({ length: EACH }, () => {
      const place = element("div", "dfs-place", grid);
      const image = element("div", "dfs-image", place);
      image.setAttribute("role", "img");
      Object.assign(image.style, {
        width: size[1] * zoom + "px",
        height: size[0] * zoom + "px",
        backgroundImage: `url(${sprite})`,
        backgroundSize: `${size[1] * zoom}px ${size[0] * zoom * labels.length}px`,
      });
      return { place, image, prediction: element("div", "dfs-prediction", place), truth: element("div", "dfs-truth", place) };
    });
    return { empty, places };
  });
  return (result) =>
    exits.forEach(({ empty, places }, k) => {
      const leavers = result.gallery[k];
      empty.hidden = leavers.length > 0;
      places.forEach(({ place, image, prediction, truth }, i) => {
        place.hidden = i >= leavers.length;
        if (place.hidden) return;
        const [index, predicted] = leavers[i];
        const right = predicted === labels[index];
        place.classList.toggle("dfs-wrong", !right);
        image.style.backgroundPositionY = `-${index * size[0] * zoom}px`;
        prediction.textContent = (right ? "✓ " : "✗ ") + names[predicted];
        truth.textContent = right ? "" : `is ${names[labels[index]]}`;
        place.title = right ? `${names[predicted]}, right` : `predicted ${names[predicted]}, is ${names[labels[index]]}`;
        image.setAttribute("aria-label", `image ${index}: ${place.title}`);
      });
    });
}

// For each exit, how many of the images that reach it have which confidence.
function histograms(bins, exit, [K, N]) {
  const counts = Array.from({ length: K }, () => new Array(BINS).fill(0));
  for (let n = 0; n < N; n++) for (let k = 0; k <= exit[n]; k++) counts[k][bins[k * N + n]]++;
  return counts;
}

// For each exit, the first images that leave there: [index, predicted class].
function leavers(exit, predictions) {
  const shown = predictions.map(() => []);
  for (let n = 0; n < predictions[0].length; n++) {
    const k = exit[n];
    if (shown[k].length < EACH) shown[k].push([n, predictions[k][n]]);
  }
  return shown;
}

const listed = (words) => (words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words.at(-1)}` : `${words[0]}`);
const named = (exits) => (exits.length > 1 ? "exits " : "exit ") + listed(exits);

// A sentence if no image reaches some of the exits with sliders, given how many images reach each.
function unreached(counts) {
  const first = counts.indexOf(0); // of the first exit that no image reaches, so the number of the one before it
  const rest = counts.map((_, k) => k + 1).slice(first);
  return first < 0 ? [] : [`No image gets past exit ${first}, whose threshold lets all leave: what is set for ${named(rest)} changes nothing.`];
}

// A sentence on the exits whose thresholds are above nearly all confidences of the images that get there.
function neverConfident(histograms, thresholds) {
  const high = [];
  histograms.forEach((counts, k) => {
    const all = counts.reduce((sum, count) => sum + count, 0);
    let [edge, above] = [BINS, 0];
    while (edge > 0 && above + counts[edge - 1] <= Math.floor(all / RARE)) above += counts[--edge];
    if (all && edge < BINS && thresholds[k] >= edge / BINS) high.push([k + 1, (edge / BINS).toFixed(3)]);
  });
  if (!high.length) return [];
  const several = high.length > 1;
  const edges = listed(high.map(([, edge]) => edge)) + (several ? ", respectively" : "");
  const what = several ? "their thresholds" : "its threshold";
  return [`Raising ${what} further changes next to nothing at ${named(high.map(([k]) => k))}: of the images that get there, 99 % are less confident than ${edges}.`];
}

// What the sliders do: thresholds and budget follow each other, all else follows from them.
function moves(model, { macs, splits, steps, group, predictions }, arrays) {
  const { confidence, validation, correct, best } = arrays;
  const K = macs.length;
  const [low, high] = [macs[0], macs[K - 1]];
  const bins = Uint8Array.from(confidence, (c) => Math.min(Math.floor(Math.fround(c * BINS)), BINS - 1));
  const fittedAt = (place) => Array.from(best.subarray(place * K, (place + 1) * K));

  const same = (a, b) => a.every((value, k) => value === b[k]);
  const places = Array.from({ length: steps + 1 }, (_, place) => place);
  const enough = places.find((place) => same(fittedAt(place), fittedAt(steps))); // a larger budget is not spent
  const idleBudget = (thresholds, fitted) =>
    fitted && enough < steps && same(thresholds, fittedAt(steps))
      ? [`From ${mmacs(low + (enough / steps) * (high - low))} onwards a larger budget changes nothing: on ${splits[0][0]}, no thresholds that let more images go deeper are more accurate.`]
      : [];

  const set = (thresholds, budget, fitted) => {
    Object.entries({ thresholds, budget, fitted }).forEach(([name, value]) => model.set(name, value));
    tell(model);
  };
  const toPlace = (place) => set(fittedAt(place), place === steps ? high : low + (place / steps) * (high - low), true);
  const { lead, stop } = linked(model, group, "dfs-budget", (fraction) => toPlace(Math.min(Math.max(Math.round(fraction * steps), 0), steps)));
  return {
    stop,
    toPlace(place) {
      toPlace(place);
      lead(place / steps);
    },
    threshold(k, value) {
      const thresholds = [...model.get("thresholds")]; // the others keep all their digits
      thresholds[k] = value;
      const counts = leaving(exits(validation, thresholds), K);
      const spent = mean(counts, macs, validation.shape[1]);
      set(thresholds, Math.min(Math.max(spent, low), high), false);
      lead(high > low ? (spent - low) / (high - low) : 0);
    },
    result() {
      const [thresholds, budget, fitted] = ["thresholds", "budget", "fitted"].map((name) => model.get(name));
      const found = measured({ confidence, correct }, thresholds, macs);
      const histogram = histograms(bins, found.exit, confidence.shape);
      const sliding = histogram.slice(0, -1); // the last exit has no slider
      const reaching = sliding.map((counts) => counts.reduce((sum, count) => sum + count, 0));
      const idle = [...idleBudget(thresholds, fitted), ...unreached(reaching), ...neverConfident(sliding, thresholds)];
      return { ...found, thresholds, budget, fitted, histogram, idle, gallery: leavers(found.exit, predictions) };
    },
  };
}

async function render({ model, el }) {
  const setup = model.get("setup");
  const root = frame(el, "dfs-explorer", "threshold explorer", setup.title);
  const move = moves(model, setup, await unpacked(model.get("outputs"), setup.layout));
  const drawHeader = header(root);
  const body = element("div", "dfs-body", root);
  const drawControls = controls(body, setup, move);
  const drawPoint = plot(body, setup);
  const drawGallery = gallery(root, setup);
  element(
    "div",
    "dfs-note",
    root,
    `An image leaves at the first exit whose confidence reaches its threshold. The budget's thresholds have the highest accuracy on ${setup.splits[0][0]}; ` +
      `accuracy, cost, shares${setup.sprite ? ", images" : ""} and histograms are measured on ${setup.splits[1][0]}. A histogram shows the confidence of the images that reach an exit; heights are roots of counts. ` +
      `Line: the budget curve. Squares: every image leaves at one exit. MMACs: millions of multiply-accumulates.`,
  );

  const draw = () => {
    const result = move.result();
    drawHeader(setup, result);
    drawControls(result);
    drawPoint(result);
    drawGallery(result);
  };
  const end = drawnAgain(model, ["thresholds", "budget", "fitted"], draw);
  return () => {
    end();
    move.stop();
  };
}

export default { render };
