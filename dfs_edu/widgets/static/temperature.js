// The page's part of temperature.TemperatureExplorer: it adds up and draws, and tells Python, if there is one, where
// the sliders are.

const SQUARE = { size: 220, left: 34, right: 10, top: 10, bottom: 38 };

// One exit at one place of the scale: its bins, its calibration error, its mean confidence and its accuracy.
function diagram({ count, confidence, accuracy }, place, k, N) {
  const [, K, bins] = count.shape;
  const found = { bins: [], error: 0, confidence: 0, accuracy: 0 };
  for (let b = 0; b < bins; b++) {
    const i = (place * K + k) * bins + b;
    if (!count[i]) continue;
    const share = count[i] / N;
    found.bins.push({ share, count: count[i], confidence: confidence[i], accuracy: accuracy[i] });
    found.error += share * Math.abs(confidence[i] - accuracy[i]);
    found.confidence += share * confidence[i];
    found.accuracy += share * accuracy[i];
  }
  return found;
}

// Where a temperature is: on the scale, or at the fitted one, which comes after the scale.
function placeOf(T, fitted, scale) {
  if (Math.abs(T - fitted) < 1e-9) return { row: scale.length, slider: nearest(T, scale) };
  const i = nearest(T, scale);
  return { row: i, slider: i };
}

function nearest(T, scale) {
  const away = scale.map((other) => Math.abs(Math.log(other / T)));
  return away.indexOf(Math.min(...away));
}

// The diagram: a circle for each bin, larger the more images are in it, and its distance from the diagonal.
function square(parent, k) {
  const { size, left, right, top, bottom } = SQUARE;
  const svg = shape("svg", "dfs-square", { viewBox: `0 0 ${size} ${size}`, role: "img" }, parent);
  const x = (value) => left + value * (size - left - right);
  const y = (value) => size - bottom - value * (size - bottom - top);
  for (const value of [0, 0.5, 1]) {
    shape("path", "dfs-grid", { d: `M${x(value)},${y(0)}V${y(1)}M${x(0)},${y(value)}H${x(1)}` }, svg);
    shape("text", "dfs-tick", { x: x(value), y: y(0) + 14, "text-anchor": value === 1 ? "end" : "middle" }, svg, 100 * value);
    shape("text", "dfs-tick", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, svg, 100 * value);
  }
  shape("text", "dfs-tick", { x: x(0.5), y: size - 6, "text-anchor": "middle" }, svg, "% confident");
  shape("text", "dfs-tick", { x: 10, y: y(0.5), "text-anchor": "middle", transform: `rotate(-90 10 ${y(0.5)})` }, svg, "% right");
  shape("path", "dfs-ideal", { d: `M${x(0)},${y(0)}L${x(1)},${y(1)}` }, svg);
  const gaps = shape("path", "dfs-gaps", {}, svg);
  const circles = shape("g", "dfs-circles", {}, svg);
  return (found) => {
    gaps.setAttribute("d", found.bins.map((bin) => `M${x(bin.confidence)},${y(bin.confidence)}V${y(bin.accuracy)}`).join(""));
    circles.replaceChildren();
    for (const bin of found.bins) {
      const circle = shape("circle", "", { cx: x(bin.confidence), cy: y(bin.accuracy), r: 2.5 + 11 * Math.sqrt(bin.share) }, circles);
      shape("title", "", {}, circle, `${percent(bin.confidence)} confident, ${percent(bin.accuracy)} right, ${bin.count.toLocaleString("en")} images`);
    }
    svg.setAttribute("aria-label", `Reliability diagram of exit ${k + 1}: ${percent(found.confidence)} confident on average, ${percent(found.accuracy)} right.`);
  };
}

// One exit: its diagram, its slider and its numbers.
function exitPanel(parent, k, { scale, fitted }, moved) {
  const box = element("div", "dfs-exit", parent);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `exit ${k + 1}`);
  element("div", "dfs-name", box, `Exit ${k + 1}`);
  const draw = square(box, k);
  const line = element("div", "dfs-line", box);
  const slider = range(line, "dfs-temperature", `Temperature of exit ${k + 1}`, 0, scale.length - 1, 1, (i) => moved(k, scale[i]));
  const mark = element("div", "dfs-mark", line);
  mark.style.setProperty("--dfs-at", (Math.log(fitted[k] / scale[0]) / Math.log(scale.at(-1) / scale[0])).toFixed(4));
  const values = element("div", "dfs-values", box);
  const [temperature, error] = [element("span", "dfs-t", values), element("span", "dfs-error", values)];
  error.setAttribute("role", "status");
  const start = element("div", "dfs-detail dfs-start", box);
  const sure = element("div", "dfs-detail dfs-sure", box);
  const answer = element("div", "dfs-detail dfs-answer", box);
  return (T, place, now, first, best, revealed) => {
    draw(now);
    slider.value = place.slider;
    temperature.textContent = `T = ${T.toFixed(2)}`;
    slider.setAttribute("aria-valuetext", temperature.textContent);
    error.textContent = `error ${percent(now.error, 2)}`;
    start.textContent = `at T = 1: error ${percent(first.error, 2)}`;
    sure.textContent = `${percent(now.confidence)} confident on average, ${percent(now.accuracy)} right`;
    mark.hidden = answer.hidden = !revealed;
    answer.textContent = `fitted: T = ${fitted[k].toFixed(2)}, error ${percent(best.error, 2)}`;
  };
}

async function render({ model, el }) {
  const setup = model.get("setup");
  const { scale, fitted, splits } = setup;
  const [[validation, chosen], [test, N]] = splits;
  const root = frame(el, "dfs-temperatures", "temperatures", setup.title);
  const arrays = await unpacked(model.get("bins"), setup.layout);
  const set = (values) => {
    Object.entries(values).forEach(([name, value]) => model.set(name, value));
    tell(model);
  };
  const grid = element("div", "dfs-exits", root);
  const moved = (k, T) => set({ temperatures: model.get("temperatures").map((other, j) => (j === k ? T : other)) });
  const panels = fitted.map((_, k) => exitPanel(grid, k, setup, moved));

  const buttons = element("div", "dfs-buttons", root);
  const button = (text, act) => {
    const node = element("button", "dfs-button", buttons, text);
    node.addEventListener("click", act);
    return node;
  };
  const reveal = button("", () => set({ revealed: !model.get("revealed") }));
  const use = button("Set all to the fitted ones", () => set({ temperatures: [...fitted] }));
  button("Set all to 1", () => set({ temperatures: fitted.map(() => 1) }));
  element(
    "div",
    "dfs-note",
    root,
    `Each circle stands for the ${test} images in one of ${arrays.count.shape[2]} bins of confidence, of ${N.toLocaleString("en")} images; the larger, the more images. ` +
      "Lines show how far an exit is from being right as often as it is confident; the calibration error is their mean length, weighted by the number of images. " +
      `The slider has ${scale.length} temperatures, from ${Number(scale[0].toPrecision(2))} to ${Number(scale.at(-1).toPrecision(2))}. Find the best one for each exit, then compare with the ones fitted on ${chosen.toLocaleString("en")} ${validation} images.`,
  );

  const one = nearest(1, scale);
  return drawnAgain(model, ["temperatures", "revealed"], () => {
    const [temperatures, revealed] = ["temperatures", "revealed"].map((name) => model.get(name));
    reveal.textContent = revealed ? "Hide the fitted temperatures" : "Show the fitted temperatures";
    use.hidden = !revealed;
    temperatures.forEach((T, k) => {
      const place = placeOf(T, fitted[k], scale);
      const [now, first, best] = [place.row, one, scale.length].map((row) => diagram(arrays, row, k, N));
      panels[k](T, place, now, first, best, revealed);
    });
  });
}

export default { render };
