// The page's part of arrows.TwoArrows and arrows.TwoExits: it computes and draws, and tells Python, if there is one,
// what was moved. An arrow is minus a gradient, the way in which an exit's loss falls fastest.

const METHODS = [
  ["sum", "sum"],
  ["pcgrad", "PCGrad"],
  ["upgrad", "UPGrad"],
];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
const times = ([[a, b], [c, d]], [x, y]) => [a * x + b * y, c * x + d * y];
const combined = ([v, w], [a, b]) => [v * a[0] + w * b[0], v * a[1] + w * b[1]];
const number = (value, digits = 2) => (value == null || Number.isNaN(value) ? "–" : value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−"));
const clamped = (value, limit) => Math.min(Math.max(value, -limit), limit);

// The weights of two gradients in the three methods' steps, as methods.pair.weights_of_two gives them.
function weightsOfTwo([[a, b], [, c]], length) {
  const both = a > 0 && c > 0;
  const pcgrad = both && b < 0 ? [1 - b / a, 1 - b / c] : [Number(a > 0), Number(c > 0)];
  const upgrad = pcgrad.map((weight) => (both ? weight / 2 : weight));
  const size = ([v, w]) => Math.sqrt(Math.max(v * v * a + 2 * v * w * b + w * w * c, 0));
  const scaled = (weights) => {
    const own = size(weights);
    const factor = own > 0 ? size([1, 1]) / own : 1;
    return weights.map((weight) => weight * factor);
  };
  const found = { sum: [1, 1], pcgrad, upgrad };
  return length === "own" ? found : Object.fromEntries(Object.entries(found).map(([name, weights]) => [name, scaled(weights)]));
}

function cosineOf([[a, b], [, c]]) {
  return a * c > 0 ? clamped(b / Math.sqrt(a * c), 1) : null;
}

function inverse([[a, b], [c, d]]) {
  const det = a * d - b * c;
  return [[d / det, -b / det], [-c / det, a / det]];
}

// What steps of a length do to both losses, as arrows.outcome finds it.
function outcome(arrows, hessians, step, length) {
  const [a, b] = arrows;
  const gramian = [[dot(a, a), dot(a, b)], [dot(a, b), dot(b, b)]];
  const weights = weightsOfTwo(gramian, length);
  const before = arrows.map((arrow, k) => dot(arrow, times(inverse(hessians[k]), arrow)) / 2);
  const taken = METHODS.map(([name]) => {
    const end = combined(weights[name], arrows).map((x) => step * x);
    const predicted = arrows.map((arrow, k) => before[k] - dot(end, arrow));
    const after = arrows.map((_, k) => predicted[k] + dot(end, times(hessians[k], end)) / 2);
    return { name, end, predicted, after };
  });
  return { cosine: cosineOf(gramian), before, taken };
}

function relation(cosine, names) {
  if (cosine == null) return "One gradient is zero: the cosine is not defined.";
  const angle = Math.round((Math.acos(cosine) * 180) / Math.PI);
  const verdict = cosine < -0.005 ? "they conflict" : cosine > 0.005 ? "they agree" : "they neither agree nor conflict";
  return `Cosine of the gradients of ${names.join(" and ")}: ${number(cosine)} (${angle}°), ${verdict}.`;
}

// A table of losses: rows of [name, class, [[value, [detail, ...], rises], ...]].
function table(parent, caption) {
  const node = element("table", "dfs-losses", parent);
  element("caption", "dfs-sr", node, caption);
  const head = element("tr", "", element("thead", "", node));
  const body = element("tbody", "", node);
  return (columns, rows) => {
    const cell = (text, scope, row) => {
      const th = element("th", "", row, text);
      th.scope = scope;
      return th;
    };
    head.replaceChildren();
    ["", ...columns].forEach((text) => cell(text, "col", head));
    body.replaceChildren();
    for (const [name, className, values] of rows) {
      const row = element("tr", className, body);
      const th = cell("", "row", row);
      element("span", "dfs-swatch", th);
      th.append(name);
      for (const [value, detail, rises] of values) {
        const td = element("td", rises ? "dfs-rises" : "", row);
        element("div", "dfs-value", td, value);
        for (const text of detail ?? []) element("div", "dfs-detail", td, text);
      }
    }
  };
}

const change = (after, before) => `${after > before ? "▲" : after < before ? "▼" : "="} ${number(Math.abs(after - before), 3)}`;

// The plane of the two arrows

const PLANE = { width: 520, height: 440, reach: 2.6 };
const SCALE = PLANE.width / 2 / PLANE.reach;
const place = ([x, y]) => [PLANE.width / 2 + SCALE * x, PLANE.height / 2 - SCALE * y];

function arrowLine(className, parent) {
  const group = shape("g", className, {}, parent);
  const line = shape("line", "", {}, group);
  const head = shape("path", "", {}, group);
  return (tip, size = 11) => {
    const [[x0, y0], [x1, y1]] = [place([0, 0]), place(tip)];
    const long = Math.hypot(x1 - x0, y1 - y0);
    group.style.visibility = long > 1 ? "visible" : "hidden";
    const [ux, uy] = long ? [(x1 - x0) / long, (y1 - y0) / long] : [0, 0];
    const back = Math.min(1.6 * size, long);
    Object.entries({ x1: x0, y1: y0, x2: x1 - ux * back * 0.7, y2: y1 - uy * back * 0.7 }).forEach(([name, value]) => line.setAttribute(name, value));
    const [bx, by] = [x1 - ux * back, y1 - uy * back];
    head.setAttribute("d", `M${x1},${y1}L${bx - (uy * size) / 1.6},${by + (ux * size) / 1.6}L${bx + (uy * size) / 1.6},${by - (ux * size) / 1.6}Z`);
  };
}

// Where each loss equals what it is now, and a quarter of that: ellipses around its minimum.
function valley(svg, k, hessian) {
  const group = shape("g", `dfs-valley dfs-exit-${k}`, {}, svg);
  const rings = [1, 0.5].map(() => shape("ellipse", "", {}, group));
  const minimum = shape("path", "", {}, group);
  const label = shape("text", "", { "text-anchor": "middle" }, group, `minimum ${k + 1}`);
  const [[a, b], [, d]] = hessian;
  const [middle, half] = [(a + d) / 2, Math.hypot((a - d) / 2, b)];
  const turn = Math.atan2(2 * b, a - d) / 2; // direction of the larger curvature
  return (arrow) => {
    const center = times(inverse(hessian), arrow);
    const loss = dot(arrow, center) / 2;
    const [x, y] = place(center);
    rings.forEach((ring, i) => {
      const factor = [1, 0.5][i] * SCALE; // half the size: a quarter of the loss
      ring.setAttribute("rx", factor * Math.sqrt((2 * loss) / (middle + half)));
      ring.setAttribute("ry", factor * Math.sqrt((2 * loss) / (middle - half)));
      ring.setAttribute("transform", `translate(${x} ${y}) rotate(${(-turn * 180) / Math.PI})`);
    });
    minimum.setAttribute("d", `M${x - 6},${y}h12M${x},${y - 6}v12`);
    label.setAttribute("x", x);
    label.setAttribute("y", y + 20);
  };
}

function stepMark(svg, name) {
  const group = shape("g", `dfs-step dfs-${name}`, {}, svg);
  const line = shape("line", "", {}, group);
  const marks = { sum: "M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0Z", pcgrad: "M-6,-6h12v12h-12Z", upgrad: "M0,-11L11,0L0,11L-11,0Z" };
  const mark = shape("path", "", { d: marks[name] }, group);
  return (end) => {
    const [[x0, y0], [x1, y1]] = [place([0, 0]), place(end)];
    Object.entries({ x1: x0, y1: y0, x2: x1, y2: y1 }).forEach(([key, value]) => line.setAttribute(key, value));
    mark.setAttribute("transform", `translate(${x1} ${y1})`);
  };
}

// The tip of an arrow, to be dragged or moved with the arrow keys.
function handle(svg, k, largest, moved) {
  const group = shape("g", `dfs-tip dfs-exit-${k}`, { tabindex: 0, role: "slider", "aria-roledescription": "arrow tip, moves in two directions" }, svg);
  Object.entries({ "aria-label": `Arrow of exit ${k + 1}`, "aria-valuemin": -180, "aria-valuemax": 180 }).forEach(([name, value]) => group.setAttribute(name, value));
  group.dataset.lmSuppressShortcuts = "true";
  shape("circle", "dfs-reach", { r: 30 }, group); // as large as a finger
  shape("circle", "dfs-knob", { r: 12 }, group);
  shape("text", "", { "text-anchor": "middle", y: 5 }, group, k + 1);
  let tip = [0, 0];
  const to = (x, y) => moved(k, [x, y].map((value) => Math.round(100 * clamped(value, largest)) / 100));
  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  group.addEventListener("keydown", (event) => {
    const way = keys[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const by = event.shiftKey ? 0.25 : 0.05;
    to(tip[0] + by * way[0], tip[1] + by * way[1]);
  });
  group.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    group.focus();
    group.setPointerCapture(event.pointerId);
  });
  group.addEventListener("pointermove", (event) => {
    if (!group.hasPointerCapture(event.pointerId)) return;
    const box = svg.getBoundingClientRect();
    const zoom = PLANE.width / box.width / SCALE;
    to((event.clientX - box.left - box.width / 2) * zoom, (box.top + box.height / 2 - event.clientY) * zoom);
  });
  return (arrow) => {
    tip = arrow;
    const [x, y] = place(arrow);
    group.setAttribute("transform", `translate(${x} ${y})`);
    group.setAttribute("aria-valuenow", Math.round((Math.atan2(arrow[1], arrow[0]) * 180) / Math.PI));
    group.setAttribute("aria-valuetext", `${number(Math.abs(arrow[0]))} ${arrow[0] < 0 ? "left" : "right"}, ${number(Math.abs(arrow[1]))} ${arrow[1] < 0 ? "down" : "up"}`);
  };
}

function plane(parent, role, label, height = PLANE.height) {
  const svg = shape("svg", "dfs-plane", { viewBox: `0 0 ${PLANE.width} ${height}`, role, "aria-label": label }, parent);
  const [x, y] = place([0, 0]);
  shape("path", "dfs-axes", { d: `M0,${y}H${PLANE.width}M${x},0V${PLANE.height}` }, svg);
  return svg;
}

const STARTS = [
  ["agree", [[1.4, 0.5], [0.9, 1.3]]],
  ["right angle", [[1.2, 0.6], [-0.6, 1.2]]],
  ["conflict", [[1.4, 0.5], [-0.7, 0.9]]],
  ["one far longer", [[1.9, 0.5], [-0.5, 0.2]]],
  ["opposed", [[1.2, 0.4], [-1.2, -0.4]]],
];

function renderArrows(model, root, setup) {
  const set = (values) => {
    Object.entries(values).forEach(([name, value]) => model.set(name, value));
    tell(model);
  };
  const body = element("div", "dfs-body", root);
  const svg = plane(element("div", "dfs-picture", body), "group", "Two arrows, one for each exit, on the landscape of both losses");
  const valleys = setup.hessians.map((hessian, k) => valley(svg, k, hessian));
  const steps = METHODS.map(([name]) => stepMark(svg, name));
  const lines = [0, 1].map((k) => arrowLine(`dfs-arrow dfs-exit-${k}`, svg));
  const tips = [0, 1].map((k) =>
    handle(svg, k, setup.largest, (moved, tip) => set({ arrows: model.get("arrows").map((arrow, i) => (i === moved ? tip : arrow)) })),
  );

  const panel = element("div", "dfs-panel", body);
  const verdict = element("div", "dfs-verdict", panel);
  verdict.setAttribute("role", "status");
  const starts = element("div", "dfs-starts", panel);
  for (const [name, arrows] of STARTS) {
    element("button", "dfs-button", starts, name).addEventListener("click", () => set({ arrows }));
  }
  const control = element("label", "dfs-control", panel);
  element("span", "dfs-name", control, "Step length");
  const slider = range(control, "dfs-length", "Step length", 0, setup.longest, 0.01, (step) => set({ step }));
  const shown = element("span", "dfs-number", control);
  const choose = choices(panel, "Each step is", [["sum", "as long as the sum's"], ["own", "as long as its method makes it"]], (length) => set({ length }));
  const fill = table(panel, "Both losses now and after a step along each direction");
  const note = element("div", "dfs-note", root);

  return drawnAgain(model, ["arrows", "step", "length"], () => {
    const [arrows, step, length] = ["arrows", "step", "length"].map((name) => model.get(name));
    const found = outcome(arrows, setup.hessians, step, length);
    arrows.forEach((arrow, k) => [valleys, lines, tips].forEach((part) => part[k](arrow)));
    found.taken.forEach(({ end }, i) => steps[i](end));
    verdict.textContent = relation(found.cosine, ["exit 1", "exit 2"]);
    slider.value = step;
    shown.textContent = step.toFixed(2);
    choose(length);
    const after = found.taken.map(({ name, predicted, after }, i) => [
      METHODS[i][1],
      `dfs-${name}`,
      after.map((value, k) => [number(value, 3), [change(value, found.before[k]), `line: ${number(predicted[k], 3)}`], value > found.before[k]]),
    ]);
    fill(["loss of exit 1", "loss of exit 2"], [["now", "dfs-now", found.before.map((value) => [number(value, 3)])], ...after]);
    note.textContent =
      "Drag the two tips, or move them with the arrow keys (with Shift: faster). An arrow is minus a gradient: the way in which an exit's loss falls fastest. " +
      "Line: the loss that the gradient alone predicts, along a straight line. Inside the large ring an exit's loss is lower than now, inside the small one less than a quarter of it. " +
      "For two gradients PCGrad and UPGrad always point the same way; PCGrad's own step is twice as long, a sum where UPGrad takes the mean.";
  });
}

// Two exits of a real network

const CHART = { width: 340, height: 230, left: 50, right: 12, top: 12, bottom: 40 };

// The loss of one exit by the step's length: predicted, and measured as far as the step was taken.
function chart(parent, exit, k, { lengths, loss, slope, curvature, measured }) {
  const svg = shape("svg", "dfs-chart", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img" }, parent);
  const [right, bottom] = [CHART.width - CHART.right, CHART.height - CHART.bottom];
  const most = lengths.at(-1) || 1;
  const finite = [loss[k], ...measured.flat().map((pair) => pair[k]), ...slope.map((s) => loss[k] + s[k] * most)].filter((value) => value != null);
  const [low, top] = [Math.max(Math.min(...finite), -0.2 * loss[k]), Math.min(Math.max(...finite), 2 * loss[k])];
  const pad = 0.08 * (top - low || 1);
  const x = (length) => CHART.left + (length / most) * (right - CHART.left);
  const y = (value) => bottom - ((value - low + pad) / (top - low + 2 * pad)) * (bottom - CHART.top);
  for (let i = 0; i <= 4; i++) {
    const value = low + (i / 4) * (top - low);
    shape("line", "dfs-grid", { x1: CHART.left, x2: right, y1: y(value), y2: y(value) }, svg);
    shape("text", "dfs-tick", { x: CHART.left - 6, y: y(value) + 4, "text-anchor": "end" }, svg, number(value));
    shape("text", "dfs-tick", { x: x((i / 4) * most), y: bottom + 16, "text-anchor": "middle" }, svg, Number(((i / 4) * most).toPrecision(2)));
  }
  shape("text", "dfs-tick", { x: (CHART.left + right) / 2, y: CHART.height - 6, "text-anchor": "middle" }, svg, "length of the step");
  const [line, curve, path] = ["dfs-straight", "dfs-curved", "dfs-measured"].map((name) => shape("path", name, {}, svg));
  const dots = shape("path", "dfs-dots", {}, svg);
  const at = shape("line", "dfs-at", { y1: CHART.top, y2: bottom }, svg);
  const inside = ([, value]) => value != null && value >= low - pad && value <= top + pad;
  const drawn = (values) => values.filter(inside).map(([length, value], i) => `${i ? "L" : "M"}${x(length).toFixed(1)},${y(value).toFixed(1)}`).join("");
  return (m, index, taken) => {
    const fine = Array.from({ length: 41 }, (_, i) => (i / 40) * most);
    line.setAttribute("d", drawn(fine.map((length) => [length, loss[k] + slope[m][k] * length])));
    curve.setAttribute("d", drawn(fine.map((length) => [length, loss[k] + slope[m][k] * length + (curvature[m][k] * length * length) / 2])));
    const found = taken ? lengths.map((length, i) => [length, measured[m][i][k]]).filter((point, i) => i <= index && inside(point)) : [];
    path.setAttribute("d", drawn(found));
    dots.setAttribute("d", found.map(([length, value]) => `M${(x(length) - 3).toFixed(1)},${y(value).toFixed(1)}a3,3 0 1,0 6,0a3,3 0 1,0 -6,0`).join(""));
    at.setAttribute("x1", x(lengths[index]));
    at.setAttribute("x2", x(lengths[index]));
    svg.setAttribute("aria-label", `Loss of exit ${exit} by the length of the step; the numbers are in the table.`);
  };
}

// The two arrows in the plane that the two gradients span, the longer one of length 2.
function inPlane(gramian) {
  const [a, c] = [Math.sqrt(gramian[0][0]), Math.sqrt(gramian[1][1])];
  const angle = Math.acos(cosineOf(gramian) ?? 1);
  const unit = 2 / Math.max(a, c);
  const tilt = (Math.PI - angle) / 2; // both point up
  return [[-a * unit * Math.cos(tilt), a * unit * Math.sin(tilt)], [c * unit * Math.cos(tilt), c * unit * Math.sin(tilt)]];
}

function renderExits(model, root, setup) {
  const { exits, gramian, weights, lengths, loss, slope, curvature, measured } = setup;
  const names = exits.map((exit) => `exit ${exit}`);
  const cosine = cosineOf(gramian);
  const set = (values) => {
    Object.entries(values).forEach(([name, value]) => model.set(name, value));
    tell(model);
  };
  const body = element("div", "dfs-body", root);
  const svg = plane(element("div", "dfs-picture", body), "img", relation(cosine, names), PLANE.height / 2 + 24);
  const arrows = inPlane(gramian);
  const steps = METHODS.map(([name]) => stepMark(svg, name));
  arrows.forEach((arrow, k) => {
    arrowLine(`dfs-arrow dfs-exit-${k}`, svg)(arrow);
    const [x, y] = place(arrow);
    const knob = shape("g", `dfs-tip dfs-fixed dfs-exit-${k}`, { transform: `translate(${x} ${y})` }, svg);
    shape("circle", "dfs-knob", { r: 12 }, knob);
    shape("text", "", { "text-anchor": "middle", y: 5 }, knob, exits[k]);
  });

  const panel = element("div", "dfs-panel", body);
  element("div", "dfs-verdict", panel, relation(cosine, names));
  const choose = choices(panel, "Step along the direction of", METHODS, (method) => set({ method }));
  const control = element("label", "dfs-control", panel);
  element("span", "dfs-name", control, "Step length");
  const slider = range(control, "dfs-length", "Step length", 0, lengths.length - 1, 1, (index) => set({ place: index }));
  const shown = element("span", "dfs-number", control);
  const button = element("button", "dfs-button dfs-take", panel);
  button.addEventListener("click", () => set({ taken: !model.get("taken") }));
  const result = element("div", "", panel);
  result.setAttribute("role", "status");
  const fill = table(result, "Both losses now, predicted and measured");
  const charts = element("div", "dfs-charts", root);
  const draws = exits.map((exit, k) => {
    const box = element("div", "", charts);
    element("div", "dfs-name", box, `Loss of exit ${exit}`);
    return chart(box, exit, k, setup);
  });
  element(
    "div",
    "dfs-note",
    root,
    "Arrows: minus the gradients that the two exits send through the trunk, at their true angle and relative lengths. The step changes the trunk's weights; the heads stay. " +
      "Losses are those of one training batch. Dashed: the straight line of the slope. Dotted: slope and curvature. Solid: measured, each step really taken." +
      (cosine == null || cosine >= 0 ? " These gradients do not conflict, so there is nothing to remove: the three directions are one." : ""),
  );

  return drawnAgain(model, ["method", "place", "taken"], () => {
    const [method, index, taken] = ["method", "place", "taken"].map((name) => model.get(name));
    const m = METHODS.findIndex(([name]) => name === method);
    const farthest = Math.max(...weights.map((pair) => Math.hypot(...combined(pair, arrows)))) || 1;
    const zoom = (index / Math.max(lengths.length - 1, 1)) * Math.min(2 / farthest, 1);
    steps.forEach((draw, i) => draw(combined(weights[i], arrows).map((x) => x * zoom)));
    svg.dataset.method = method;
    choose(method);
    slider.value = index;
    shown.textContent = Number(lengths[index].toPrecision(3));
    slider.setAttribute("aria-valuetext", shown.textContent);
    button.textContent = taken ? "Take the step back" : "Take the step";
    const straight = [0, 1].map((k) => loss[k] + slope[m][k] * lengths[index]);
    const curved = [0, 1].map((k) => straight[k] + (curvature[m][k] * lengths[index] ** 2) / 2);
    const row = (name, className, values) => [name, className, values.map((value, k) => (value == null ? ["–", ["not finite"]] : [number(value, 3), [change(value, loss[k])], value > loss[k]]))];
    fill(
      names.map((name) => `loss of ${name}`),
      [
        ["now", "dfs-now", loss.map((value) => [number(value, 3)])],
        row("straight line", "dfs-straight", straight),
        row("with curvature", "dfs-curved", curved),
        taken ? row("measured", "dfs-measured", measured[m][index]) : ["measured", "dfs-measured", [["?"], ["?"]]],
      ],
    );
    draws.forEach((draw) => draw(m, index, taken));
  });
}

async function render({ model, el }) {
  const setup = model.get("setup");
  const real = Boolean(setup.measured);
  const root = frame(el, "dfs-arrows", real ? "a step for two exits" : "two arrows", setup.title);
  return (real ? renderExits : renderArrows)(model, root, setup);
}

export default { render };
