const SAMPLE_RATE = 16_000, SEGMENT = 15_600, HOP = 15_360, FRAMES = 96, BANDS = 64, SIZE = 128, BATCH = 4;
const DRAW_MS = 500, MAX_COLUMNS = 4_000, MAX_EXAMPLES = 400;
const element = (id) => document.getElementById(id);

let current = null; // the sound that is shown: {name, embeddings: [Float32Array(128)], frames: [Float32Array(64)]}
let first = null; // the one before, to which it is compared
let drawn = 0; // when
let run = 0; // counts sounds, so that a new one ends the work on the one before

// === Model ===

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let calls = 0;

const ready = new Promise((resolve, reject) => {
  worker.onerror = (event) => {
    const error = new Error(event.message || "worker.js cannot be loaded");
    reject(error);
    for (const call of waiting.values()) call.reject(error);
    waiting.clear();
  };
  worker.onmessage = ({ data }) => {
    if (data.ready) resolve();
    else if (data.id === undefined) reject(new Error(data.problem));
    else {
      const call = waiting.get(data.id);
      waiting.delete(data.id);
      if (call && data.problem) call.reject(new Error(data.problem));
      else if (call) call.resolve(data);
    }
  };
});

async function compute(segments) {
  await ready;
  return new Promise((resolve, reject) => {
    const id = calls++;
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, segments }, [segments.buffer]);
  });
}

ready.then(() => status("Ready."), (error) => problem(`The model cannot be loaded: ${error.message}`));

const status = (text) => { element("status").textContent = text; };
const problem = (text) => { element("problem").textContent = text; };

// === Sounds ===

// Whole examples only, and a sound shorter than one is padded to one.
const countExamples = (samples) => (samples < SEGMENT ? 1 : 1 + Math.floor((samples - SEGMENT) / HOP));

async function decode(file) {
  const decoder = new OfflineAudioContext(1, 1, SAMPLE_RATE);
  const buffer = await decoder.decodeAudioData(await file.arrayBuffer());
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let index = 0; index < mono.length; index++) mono[index] += samples[index] / buffer.numberOfChannels;
  }
  return mono;
}

async function open(file) {
  problem("");
  if (microphone) await stop();
  const own = begin(file.name);
  element("player").hidden = false;
  element("player").src = URL.createObjectURL(file);
  let samples;
  try {
    samples = await decode(file);
  } catch {
    if (own === run) problem(`The browser cannot decode ${file.name}.`);
    return;
  }
  try {
    await ready;
    const count = countExamples(samples.length), started = performance.now();
    for (let start = 0; start < count && own === run; start += BATCH) {
      const size = Math.min(BATCH, count - start), segments = new Float32Array(size * SEGMENT);
      for (let index = 0; index < size; index++) {
        const from = (start + index) * HOP;
        segments.set(samples.subarray(from, from + SEGMENT), index * SEGMENT);
      }
      add(await compute(segments), own);
      const seconds = (performance.now() - started) / 1_000;
      if (own === run) status(`${start + size} of ${count} examples, ${((0.96 * (start + size)) / seconds).toFixed(1)} times real time`);
    }
    if (own === run) {
      draw();
      compare();
    }
  } catch (error) {
    if (own === run) problem(error.message);
  }
}

function begin(name) {
  if (current && current.embeddings.length) first = current;
  current = { name, embeddings: [], frames: [] };
  element("result").hidden = false;
  element("comparison").hidden = true;
  element("save").disabled = true;
  element("name").textContent = name;
  for (const id of ["spectrogram", "embeddings", "similarity"]) element(id).width = 1;
  return ++run;
}

function add({ embeddings, logMel }, own) {
  if (own !== run) return;
  for (let index = 0; index < embeddings.length / SIZE; index++) {
    current.embeddings.push(embeddings.slice(index * SIZE, (index + 1) * SIZE));
    for (let frame = 0; frame < FRAMES; frame++) {
      const from = (index * FRAMES + frame) * BANDS;
      current.frames.push(logMel.slice(from, from + BANDS));
    }
  }
  element("save").disabled = false;
  if (performance.now() - drawn > DRAW_MS) draw();
}

// === Pictures ===

// A perceptually even scale from dark blue to yellow, as cividis.
const STOPS = [[0, 32, 77], [53, 69, 108], [102, 105, 112], [148, 142, 119], [197, 183, 103], [255, 234, 70]];

function color(value) {
  const scaled = Math.min(Math.max(value, 0), 1) * (STOPS.length - 1), low = Math.min(Math.floor(scaled), STOPS.length - 2);
  return STOPS[low].map((part, index) => part + (STOPS[low + 1][index] - part) * (scaled - low));
}

function paint(canvas, width, height, value, zoom = 1) {
  canvas.width = width;
  canvas.height = height;
  canvas.style.width = zoom === null ? "" : `${width * zoom}px`;
  const pixels = new ImageData(width, height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const [red, green, blue] = color(value(column, row));
      pixels.data.set([red, green, blue, 255], 4 * (row * width + column));
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// At most so many of the rows, evenly spread: browsers limit the size of a canvas.
function thin(rows, most) {
  if (rows.length <= most) return rows;
  return Array.from({ length: most }, (_, index) => rows[Math.floor((index * rows.length) / most)]);
}

function draw() {
  const frames = thin(current.frames, MAX_COLUMNS), embeddings = thin(current.embeddings, MAX_COLUMNS / 10);
  paint(element("spectrogram"), frames.length, BANDS, (column, row) => (frames[column][BANDS - 1 - row] + 4.6) / 8);
  element("spectrogram").style.height = `${2 * BANDS}px`;
  const highest = embeddings.reduce((most, values) => values.reduce((best, value) => Math.max(best, Math.abs(value)), most), 1e-9);
  const zoom = frames.length / embeddings.length; // one time axis for both
  paint(element("embeddings"), embeddings.length, SIZE, (column, row) => 0.5 + embeddings[column][SIZE - 1 - row] / (2 * highest), zoom);
  element("embeddings").style.height = `${1.5 * SIZE}px`;
  paintSimilarity(element("similarity"), embeddings, embeddings);
  drawn = performance.now();
}

function paintSimilarity(canvas, columns, rows) {
  const [across, down] = [columns, rows].map((values) => thin(values, MAX_EXAMPLES).map(unit));
  paint(canvas, across.length, down.length, (a, b) => dot(across[a], down[down.length - 1 - b]), null);
}

const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);

function unit(values) {
  const length = Math.sqrt(dot(values, values)) || 1;
  return values.map((value) => value / length);
}

function mean(rows) {
  const sum = new Float32Array(SIZE);
  for (const row of rows) row.forEach((value, index) => { sum[index] += value / rows.length; });
  return sum;
}

function compare() {
  if (!first) return;
  const cosine = dot(unit(mean(current.embeddings)), unit(mean(first.embeddings)));
  element("comparison").hidden = false;
  element("first").textContent = first.name;
  element("cosine").textContent = `The cosine of the mean embeddings is ${cosine.toFixed(3)}. Below, each column is an example of ${current.name}, each row one of ${first.name}.`;
  paintSimilarity(element("cross"), current.embeddings, first.embeddings);
}

// === Microphone ===

let microphone = null;

async function record() {
  problem("");
  element("microphone").disabled = true;
  try {
    await start();
  } finally {
    element("microphone").disabled = false;
  }
}

async function start() {
  if (!navigator.mediaDevices) {
    problem("The microphone is not available: open the page over https, or from localhost.");
    return;
  }
  try {
    // Without the processing that is meant for calls, which changes the sound.
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    microphone = { stream };
    const context = new AudioContext({ sampleRate: SAMPLE_RATE });
    microphone.context = context;
    await context.audioWorklet.addModule("microphone.js");
    const node = new AudioWorkletNode(context, "microphone");
    context.createMediaStreamSource(stream).connect(node);
    element("microphone").setAttribute("aria-pressed", "true");
    element("player").hidden = true;
    listen(node.port, begin("microphone"));
  } catch (error) {
    await stop();
    problem(`The microphone cannot be used: ${error.message}`);
  }
}

function listen(port, own) {
  let samples = new Float32Array(0);
  port.onmessage = async ({ data }) => {
    const joined = new Float32Array(samples.length + data.length);
    joined.set(samples);
    joined.set(data, samples.length);
    samples = joined;
    if (samples.length < SEGMENT) return;
    const segment = samples.slice(0, SEGMENT);
    samples = samples.slice(HOP);
    try {
      add(await compute(segment), own);
      if (own === run) status(`${current.embeddings.length} examples`);
    } catch (error) {
      problem(error.message);
    }
  };
}

async function stop() {
  if (!microphone) return;
  const { stream, context } = microphone;
  microphone = null;
  stream.getTracks().forEach((track) => track.stop());
  element("microphone").setAttribute("aria-pressed", "false");
  await context?.close();
  if (!current || !current.embeddings.length) return;
  draw();
  compare();
}

// === Events ===

function save() {
  const header = ["file", "time", ...Array.from({ length: SIZE }, (_, index) => `embedding_${index}`)].join();
  const name = `"${current.name.replaceAll('"', '""')}"`;
  const rows = current.embeddings.map((values, index) => [name, ((index * HOP) / SAMPLE_RATE).toFixed(2), ...values].join());
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([[header, ...rows, ""].join("\r\n")], { type: "text/csv" }));
  link.download = `${current.name.replace(/\.[^.]*$/, "")}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
}

element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) open(target.files[0]);
  target.value = "";
});
element("save").addEventListener("click", save);
element("microphone").addEventListener("click", () => (microphone ? stop() : record()));
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
}

for (const [supported, name] of [[window.OfflineAudioContext, "Web Audio"], [window.WebAssembly, "WebAssembly"]]) {
  if (!supported) problem(`This browser lacks ${name}, which the page needs.`);
}
