"use strict";

const SVG = "http://www.w3.org/2000/svg";
const MOST_LINES = 8; // Features drawn as lines; more are drawn as a picture.
const MOST_ROWS = 12; // Outputs shown; of more, the largest.
const NO_INPUT = 4; // SFT_NO_INPUT of the program.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const product = (numbers) => numbers.reduce((a, b) => a * b, 1);
const largest = (numbers) => numbers.indexOf(Math.max(...numbers));

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function element(kind, attributes = {}, children = []) {
  const drawn = kind === "svg" || attributes.svg;
  const made = drawn ? document.createElementNS(SVG, kind) : document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name !== "svg") made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const shapes = data.modalities.map((modality) => ({
  ...modality,
  positions: product(modality.lengths),
  counts: modality.lengths.map((n, i) => Math.ceil(n / modality.patch[i])),
}));
const exampleValues = shapes.reduce((sum, m) => sum + m.positions * m.features, 0);
const examplePositions = shapes.reduce((sum, m) => sum + m.positions, 0);
const exampleCount = data.ids.length;
const values = new Float32Array(bytes(data.values).buffer);
const masks = data.masks ? bytes(data.masks) : new Uint8Array(exampleCount * examplePositions).fill(1);
const expected = new Float32Array(bytes(data.expected).buffer);

/* Views of one modality in one example. */
function view(example, i) {
  let value = example * exampleValues, position = example * examplePositions;
  for (const shape of shapes.slice(0, i)) {
    value += shape.positions * shape.features;
    position += shape.positions;
  }
  const shape = shapes[i];
  return {
    values: values.subarray(value, value + shape.positions * shape.features),
    mask: masks.subarray(position, position + shape.positions),
  };
}

/* Range of the real values of a modality in all examples. */
function range(i) {
  let low = Infinity, high = -Infinity;
  for (let example = 0; example < exampleCount; example++) {
    const own = view(example, i);
    own.values.forEach((x, at) => {
      if (!own.mask[Math.floor(at / shapes[i].features)]) return;
      low = Math.min(low, x);
      high = Math.max(high, x);
    });
  }
  if (low > high) return [0, 1];
  return low === high ? [low - 1, high + 1] : [low, high];
}

let program; // What the WebAssembly exports.
const state = { example: 0, k: data.k, off: new Set() };

function isPresent(example, i) {
  return view(example, i).mask.some(Boolean);
}

function memory(kind, at, length) {
  return new kind(program.memory.buffer, at, length);
}

/* Loads an example, which `run` then computes as often as it is called. */
function load(example, k, off) {
  memory(Float32Array, program.values(), exampleValues)
    .set(values.subarray(example * exampleValues, (example + 1) * exampleValues));
  memory(Uint8Array, program.masks(), examplePositions)
    .set(masks.subarray(example * examplePositions, (example + 1) * examplePositions));
  memory(Int32Array, program.k(), shapes.length).set(k);
  return shapes.reduce((bits, m, i) => bits | (off.has(m.name) ? 0 : 1 << i), 0);
}

/* Outputs are null if every modality is left out. */
function predict(example, k, off) {
  const code = program.run(load(example, k, off));
  if (code && code !== NO_INPUT) throw new Error(`example ${data.ids[example]} is refused with code ${code}`);
  return {
    outputs: code ? null : Array.from(memory(Float32Array, program.outputs(), data.classes.length)),
    kept: Array.from(memory(Uint8Array, program.kept(), shapes.reduce((n, m) => n + m.tokens, 0))),
  };
}

/* Classes or labels that the outputs tell. */
function decisions(outputs) {
  if (data.task === "regression") return [];
  if (data.task === "multi_label") return outputs.flatMap((p, i) => (p > 0.5 ? [i] : []));
  return [largest(outputs)];
}

function truths(example) {
  const label = data.labels[example];
  if (data.task === "regression") return [];
  if (data.task === "multi_label") return label.flatMap((p, i) => (p > 0.5 ? [i] : []));
  return [label];
}

/* Compares every example with the outputs that Python computed. */
function check() {
  let same = 0, difference = 0;
  for (let example = 0; example < exampleCount; example++) {
    const { outputs } = predict(example, data.k, new Set());
    const wanted = Array.from(expected.subarray(example * outputs.length, (example + 1) * outputs.length));
    outputs.forEach((p, i) => { difference = Math.max(difference, Math.abs(p - wanted[i])); });
    same += String(decisions(outputs)) === String(decisions(wanted));
  }
  const what = data.task === "regression" ? "" : `same decision in ${same} of ${exampleCount}, `;
  byId("check").textContent = `${what}difference ${difference.toExponential(1)} at most`;
  Object.assign(byId("check").dataset, { same, difference });
}

/* Outlines of the tokens that are kept. */
function marks(shape, flags) {
  const [first, second = { count: 1 }] = shape.counts.map((count, i) => ({ count, size: shape.patch[i] }));
  return flags.flatMap((flag, token) => {
    if (!flag) return [];
    const a = Math.floor(token / second.count) * first.size;
    const along = Math.min(first.size, shape.lengths[0] - a);
    if (shape.lengths.length === 1) return [{ x: a, y: 0, width: along, height: null }];
    const b = (token % second.count) * second.size;
    return [{ x: b, y: a, width: Math.min(second.size, shape.lengths[1] - b), height: along }];
  });
}

function overlay(shape, flags, width, height) {
  const rectangles = marks(shape, flags).map(({ x, y, width: w, height: h }) =>
    element("rect", { svg: 1, class: "kept", x, y, width: w, height: h ?? height }));
  return element("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" }, rectangles);
}

function drawLines(shape, own, [low, high], flags) {
  const [length] = shape.lengths, height = 100;
  const y = (x) => (height * (1 - (x - low) / (high - low))).toFixed(2);
  const svg = overlay(shape, flags, length, height);
  if (low < 0 && high > 0) {
    svg.append(element("line", { svg: 1, class: "zero", x1: 0, x2: length, y1: y(0), y2: y(0) }));
  }
  for (let f = 0; f < shape.features; f++) {
    let path = "", open = false;
    for (let t = 0; t < length; t++) {
      if (own.mask[t]) path += `${open ? "L" : "M"}${t + 0.5} ${y(own.values[t * shape.features + f])}`;
      open = Boolean(own.mask[t]);
    }
    svg.append(element("path", { svg: 1, class: "series", d: path, stroke: `var(--s${f})` }));
  }
  return [svg];
}

/* Draws an image, or a sequence of many features with one row for each. */
function drawPicture(shape, own, [low, high], flags) {
  const image = shape.lengths.length === 2;
  const width = image ? shape.lengths[1] : shape.lengths[0];
  const height = image ? shape.lengths[0] : shape.features;
  const canvas = element("canvas", { width, height });
  const pixels = new ImageData(width, height);
  const level = (x) => (255 * (x - low)) / (high - low);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const position = image ? row * width + column : column;
      const at = position * shape.features + (image ? 0 : row);
      const color = image && shape.features === 3 ? [0, 1, 2] : [0, 0, 0];
      const rgb = color.map((f) => level(own.values[at + f]));
      pixels.data.set([...rgb, own.mask[position] ? 255 : 0], 4 * (row * width + column));
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return [canvas, overlay(shape, flags, width, height)];
}

const ranges = shapes.map((_, i) => range(i));

function showModalities(kept) {
  let start = 0;
  shapes.forEach((shape, i) => {
    const flags = kept.slice(start, start + shape.tokens);
    start += shape.tokens;
    const box = byId(`modality_${i}`), off = state.off.has(shape.name);
    const own = view(state.example, i), there = isPresent(state.example, i);
    const lines = shape.lengths.length === 1 && !shape.derived && shape.features <= MOST_LINES;
    const drawing = box.querySelector(".drawing");
    drawing.className = `drawing ${lines ? "lines" : shape.lengths.length === 2 ? "picture" : "heat"}`;
    drawing.replaceChildren(...(lines ? drawLines : drawPicture)(shape, own, ranges[i], flags));
    box.classList.toggle("off", off || !there);
    const checkbox = box.querySelector("input");
    checkbox.checked = there && !off;
    checkbox.disabled = !there;
    const count = flags.filter(Boolean).length;
    const pooled = data.k ? Math.min(state.k[i], shape.tokens) : shape.tokens;
    const used = data.selects ? `${count} of ${shape.tokens} tokens kept` : `${shape.tokens} tokens pooled to ${pooled}`;
    box.querySelector("small").textContent = !there ? "not recorded" : off ? "left out" : used;
  });
}

function showOutputs(outputs) {
  if (!outputs) {
    byId("outputs").replaceChildren(element("tr", {}, [element("td", { text: "no input" })]));
    return;
  }
  const chosen = decisions(outputs), real = truths(state.example);
  let order = outputs.map((_, i) => i);
  if (order.length > MOST_ROWS) order = order.sort((a, b) => outputs[b] - outputs[a]).slice(0, MOST_ROWS);
  byId("outputs").replaceChildren(...order.map((i) => {
    const number = data.task === "regression"
      ? `${outputs[i].toFixed(3)} (true ${data.labels[state.example][i].toFixed(3)})`
      : `${(100 * outputs[i]).toFixed(1)} %`;
    const cells = [element("td", { class: "name", text: data.classes[i], title: data.classes[i] })];
    if (data.task !== "regression") {
      const bar = element("i", { style: `width: ${(100 * outputs[i]).toFixed(2)}%` });
      cells.push(element("td", {}, [element("div", { class: "bar" }, [bar])]));
    }
    cells.push(element("td", { class: "number", text: number }));
    const kinds = [chosen.includes(i) ? "first" : "", real.includes(i) ? "true" : ""];
    return element("tr", { class: kinds.join(" ").trim() }, cells);
  }));
}

/* Runs the example that is shown again and again, and shows the least mean time. */
function measure() {
  const present = load(state.example, state.k, state.off);
  if (program.run(present)) {
    byId("latency").textContent = "no input";
    return;
  }
  let best = Infinity;
  for (let round = 0; round < 5; round++) {
    const start = performance.now();
    let runs = 0;
    while (runs < 100 && performance.now() - start < 10) {
      program.run(present);
      runs++;
    }
    best = Math.min(best, (performance.now() - start) / runs);
  }
  // A clock that stands still, as in tests, tells nothing.
  byId("latency").textContent = best > 0 ? `${best.toPrecision(2)} ms on one thread` : "too short to measure";
}

let timer;

function show() {
  const { outputs, kept } = predict(state.example, state.k, state.off);
  showModalities(kept);
  showOutputs(outputs);
  byId("place").textContent = `Example ${state.example + 1} of ${exampleCount}`;
  byId("place").title = data.ids[state.example];
  const k = Math.max(...state.k);
  byId("k").value = k;
  byId("k_value").textContent = k;
  byId("cost").textContent = `${(data.multiply_accumulates[k] / 1e6).toFixed(2)} million with all inputs`;
  document.body.dataset.outputs = JSON.stringify(outputs);
  clearTimeout(timer);
  timer = setTimeout(measure, 120);
}

/* Builds what depends on the model, and reads the address: #example=4&k=0&off=gyroscope. */
function build() {
  const names = shapes.map((m) => m.name.replaceAll("_", " ")).join(", ").replace(/, ([^,]*)$/, " and $1");
  const kinds = { regression: "Predicted numbers", multi_label: "Probability of each label" };
  byId("results_title").textContent = kinds[data.task] ?? "Probabilities";
  byId("intro").textContent = `From ${names} to ${data.classes.length} ` +
    `${data.task === "regression" ? "numbers" : data.task === "multi_label" ? "labels" : "classes"}. ` +
    "The model runs in this page, without a server or a library. " +
    `The examples are from the test split${data.selects ? "; marked tokens take part in the fusion" : ""}.`;
  byId("modalities").append(...shapes.map((shape, i) => {
    const checkbox = element("input", { type: "checkbox" });
    checkbox.addEventListener("change", () => {
      state.off[checkbox.checked ? "delete" : "add"](shape.name);
      show();
    });
    const [low, high] = ranges[i].map((x) => x.toPrecision(3));
    const [length, columns] = shape.lengths;
    const steps = shape.derived || `${length} steps`;
    const size = columns ? `${length} × ${columns} pixels` : steps;
    return element("div", { class: "modality", id: `modality_${i}` }, [
      element("label", {}, [checkbox, shape.name.replaceAll("_", " "), element("small")]),
      element("div", { class: "drawing" }),
      element("div", { class: "axis" }, [
        element("span", { text: `from ${low} to ${high}` }),
        element("span", { text: `${size}, ${shape.features} ${shape.features === 1 ? "feature" : "features"}` }),
      ]),
    ]);
  }));
  const size = (bytes(data.wasm).length / 1000).toFixed(0);
  byId("program").textContent = `${size} kB of WebAssembly, ${data.weights} weights, sft_jax ${data.version}`;
  const address = new URLSearchParams(location.hash.slice(1));
  // Counted from 1, as shown.
  state.example = Math.min(Math.max((Number(address.get("example")) || 1) - 1, 0), exampleCount - 1);
  state.off = new Set((address.get("off") ?? "").split(","));
  byId("k").min = data.least_k;
  byId("k").max = Math.max(...shapes.map((m) => m.tokens));
  byId("budget").hidden = !data.free_k;
  if (data.free_k && address.has("k")) setBudget(Number(address.get("k")) || 0);
  byId("k").addEventListener("input", () => { setBudget(Number(byId("k").value)); show(); });
  for (const [id, step] of [["previous", exampleCount - 1], ["next", 1]]) {
    byId(id).addEventListener("click", () => {
      state.example = (state.example + step) % exampleCount;
      show();
    });
  }
}

function setBudget(k) {
  const allowed = Math.max(k, data.least_k);
  state.k = shapes.map((m) => Math.min(allowed, m.tokens));
}

function complain(error) {
  byId("problem").hidden = false;
  byId("problem").textContent = `This page does not work here: ${error.message ?? error}`;
}

window.addEventListener("error", (event) => complain(event.error ?? event.message));

(async () => {
  try {
    program = (await WebAssembly.instantiate(bytes(data.wasm))).instance.exports;
    build();
    check();
    show();
    measure();
    document.body.dataset.state = "ready";
  } catch (error) {
    complain(error);
    throw error;
  }
})();
