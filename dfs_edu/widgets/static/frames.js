// The page's part of frames.FramePlayer: it draws one frame at a time, and tells Python, if there is one, which.

const EVERY = 700; // ms between frames while playing
const DASHED = { solid: "", dash: "9 5", dot: "2 4", dashdot: "9 4 2 4", longdash: "14 5", longdashdot: "14 4 2 4" };

// The colour of a value on a scale of [place from 0 to 1, "#rrggbb"]; where two stops coincide, the colour jumps.
function colourOf(value, scale, [low, high]) {
  const place = Math.min(Math.max((value - low) / (high - low), 0), 1);
  let i = scale.findIndex(([stop]) => stop > place);
  if (i < 0) i = scale.length - 1;
  const [[from, a], [to, b]] = [scale[i - 1], scale[i]];
  const part = (place - from) / (to - from);
  const channel = (colour, j) => parseInt(colour.slice(1 + 2 * j, 3 + 2 * j), 16);
  const mixed = [0, 1, 2].map((j) => Math.round(channel(a, j) + (channel(b, j) - channel(a, j)) * part));
  return `rgb(${mixed.join(", ")})`;
}

// A table: its cells are colours, and numbers for the pointer and for screen readers.
function heatmap(parent, { title, columns, rows, across, scale, range: ends, values }) {
  const table = element("table", "dfs-map", parent);
  element("caption", "dfs-sr", table, title);
  const widths = element("colgroup", "", table);
  element("col", "dfs-names", widths);
  columns.forEach(() => element("col", "", widths));
  const body = element("tbody", "", table);
  const cells = rows.map((name) => {
    const row = element("tr", "", body);
    element("th", "dfs-row", row, name).scope = "row";
    return columns.map((column) => {
      const cell = element("td", "", row);
      return { cell, text: element("span", "dfs-sr", cell), where: `${name}, ${column}` };
    });
  });
  const foot = element("tr", "", element("tfoot", "", table));
  element("td", "", foot);
  for (const column of columns) {
    const th = element("th", "dfs-column", foot);
    th.scope = "col";
    element("span", "", th, column);
  }
  element("div", "dfs-across", parent, across);
  const bar = element("div", "dfs-scale", parent);
  bar.setAttribute("aria-hidden", "true");
  element("span", "", bar, ends[0].toFixed(0));
  const stops = scale.map(([place, colour]) => `${colour} ${100 * place}%`);
  element("span", "dfs-colours", bar).style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  element("span", "", bar, ends[1].toFixed(0));
  const zero = element("span", "dfs-zero", bar);
  element("span", "dfs-chip", zero).style.background = colourOf(0, scale, ends);
  zero.append("exactly 0");
  return (frame) =>
    cells.forEach((row, r) =>
      row.forEach(({ cell, text, where }, c) => {
        const value = values[frame][r][c];
        text.textContent = value == null ? "none" : String(value).replace("-", "−");
        cell.title = value == null ? "" : `${where}: ${text.textContent}`;
        cell.style.background = value == null ? "none" : colourOf(value, scale, ends);
      }),
    );
}

// Arrows from the origin, on one scale for both axes, and a legend for those without a name beside them.
function arrowsOf(parent, { title, range: [across, up], arrows }) {
  const [width, height] = [520, Math.min(Math.max((520 * (up[1] - up[0])) / (across[1] - across[0]), 160), 620)];
  const unit = Math.min(width / (across[1] - across[0]), height / (up[1] - up[0]));
  const place = ([x, y]) => [width / 2 + (x - (across[0] + across[1]) / 2) * unit, height / 2 - (y - (up[0] + up[1]) / 2) * unit];
  const svg = shape("svg", "dfs-arrows-plane", { viewBox: `0 0 ${width} ${height}`, role: "img" }, parent);
  const legend = element("div", "dfs-legend", parent);
  const [x0, y0] = place([0, 0]);
  return (frame, label) => {
    svg.replaceChildren();
    legend.replaceChildren();
    shape("path", "dfs-axes", { d: `M0,${y0}H${width}M${x0},0V${height}` }, svg);
    for (const { name, tip, colour, dash, given } of arrows[frame]) {
      const [x, y] = place(tip);
      const long = Math.hypot(x - x0, y - y0) || 1;
      const [ux, uy, size] = [(x - x0) / long, (y - y0) / long, given ? 9 : 7];
      const look = { stroke: colour, "stroke-width": given ? 5 : 2.5, "stroke-dasharray": DASHED[dash] ?? dash.replaceAll("px", "").replaceAll(",", " ") };
      shape("line", "", { x1: x0, y1: y0, x2: x - ux * size, y2: y - uy * size, ...look }, svg);
      const [bx, by] = [x - 1.8 * ux * size, y - 1.8 * uy * size];
      shape("path", "", { d: `M${x},${y}L${bx - uy * size},${by + ux * size}L${bx + uy * size},${by - ux * size}Z`, fill: colour }, svg);
      if (given) shape("text", "", { x, y: y - 10, "text-anchor": "middle" }, svg, name);
      const item = element("span", "", legend);
      const swatch = shape("svg", "", { width: 30, height: 10, "aria-hidden": "true" }, item);
      shape("line", "", { x1: 0, y1: 5, x2: 30, y2: 5, ...look }, swatch);
      item.append(name);
    }
    const spoken = arrows[frame].map(({ name, tip }) => `${name} (${tip.map((value) => value.toFixed(2)).join(", ")})`);
    svg.setAttribute("aria-label", `${title}, ${label}: ${spoken.join("; ")}`);
  };
}

async function render({ model, el }) {
  const setup = model.get("setup");
  const { labels, prefix, kind } = setup;
  const last = labels.length - 1;
  const root = frame(el, "dfs-frames", "frames", setup.title);
  const picture = element("div", "dfs-picture", root);
  const draw = (kind === "heatmap" ? heatmap : arrowsOf)(picture, setup);
  const set = (index) => {
    model.set("frame", Math.min(Math.max(index, 0), last));
    tell(model);
  };

  // The reader's own moves end the playing
  const bar = element("div", "dfs-player", root);
  const button = (className, label, act) => {
    const node = element("button", "dfs-button " + className, bar);
    node.setAttribute("aria-label", label);
    node.addEventListener("click", act);
    return node;
  };
  let timer = null;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const pause = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ Play";
    play.setAttribute("aria-label", "Play");
  };
  const next = () => {
    const at = model.get("frame");
    if (!root.isConnected || at >= last) return pause();
    set(at + 1);
    if (at + 1 === last) pause();
  };
  const play = button("dfs-play", "Play", () => {
    if (timer) return pause();
    if (model.get("frame") === last) set(0);
    timer = setInterval(next, EVERY);
    play.textContent = "⏸ Pause";
    play.setAttribute("aria-label", "Pause");
  });
  const by = (step) => () => (pause(), set(model.get("frame") + step));
  button("dfs-back", "Back one frame", by(-1)).textContent = "‹";
  button("dfs-on", "On by one frame", by(1)).textContent = "›";
  const slider = range(bar, "dfs-frame", prefix.trim() || "frame", 0, last, 1, (index) => (pause(), set(index)));
  const shown = element("span", "dfs-number", bar);
  const motion = () => {
    play.hidden = still.matches || last === 0;
    if (still.matches) pause();
  };
  pause();
  motion();
  still.addEventListener("change", motion);

  const stop = drawnAgain(model, ["frame"], () => {
    const index = model.get("frame");
    draw(index, labels[index]);
    slider.value = index;
    shown.textContent = prefix + labels[index];
    slider.setAttribute("aria-valuetext", shown.textContent);
  });
  return () => (stop(), pause(), still.removeEventListener("change", motion));
}

export default { render };
