// Exit outputs in the page: unpacked once, then thresholds are applied at every move, as inference.apply does in Python.

// Arrays by name, from the bytes that page.packed wrote: zlib around one array after the other.
async function unpacked(bytes, layout) {
  const kinds = { float32: Float32Array, uint8: Uint8Array };
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const arrays = {};
  let at = 0;
  for (const [name, kind, shape] of layout) {
    const values = new kinds[kind](buffer, at, shape.reduce((product, size) => product * size, 1));
    arrays[name] = Object.assign(values, { shape });
    at += values.byteLength;
  }
  return arrays;
}

// The first exit whose confidence reaches its threshold, for each image; the last exit takes the rest.
function exits(confidence, thresholds) {
  const [K, N] = confidence.shape;
  const limits = Float32Array.from(thresholds); // Python compares in this precision, too
  const exit = new Uint8Array(N);
  for (let n = 0; n < N; n++) {
    let k = 0;
    while (k < K - 1 && !(confidence[k * N + n] >= limits[k])) k++;
    exit[n] = k;
  }
  return exit;
}

// How many images leave at each exit.
function leaving(exit, K) {
  const counts = new Array(K).fill(0);
  for (const k of exit) counts[k]++;
  return counts;
}

const mean = (counts, values, N) => counts.reduce((sum, count, k) => sum + (count / N) * values[k], 0);

// What the thresholds give: accuracy, average cost, share and accuracy of those that leave at each exit.
function measured({ confidence, correct }, thresholds, macs) {
  const [K, N] = confidence.shape;
  const exit = exits(confidence, thresholds);
  const counts = leaving(exit, K);
  const right = new Array(K).fill(0);
  for (let n = 0; n < N; n++) right[exit[n]] += correct[exit[n] * N + n];
  return {
    exit,
    accuracy: right.reduce((sum, count) => sum + count, 0) / N,
    macs: mean(counts, macs, N),
    share: counts.map((count) => count / N),
    exitAccuracy: counts.map((count, k) => (count ? right[k] / count : null)),
  };
}
