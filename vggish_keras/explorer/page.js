"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);

function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Type(bytes.buffer);
}

const positions = unpack(data.positions, Float32Array);
const recordings = unpack(data.recordings, Uint32Array);
const times = unpack(data.times, Float32Array);
const neighbors = unpack(data.neighbors, Uint32Array);
const similarities = unpack(data.similarities, Float32Array);
const colorings = data.colorings.map((coloring) => ({ ...coloring, values: unpack(coloring.values, Uint16Array) }));
const size = recordings.length;

// The colors of Okabe and Ito, which color-blind people tell apart; symbols repeat them for more categories.
const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900", "#8c8c8c"];
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross"];
const FEW = 2000;
const MAX_LISTED = 100;

let coloring = colorings[0];
let current = null;
let selection = [];

const nameOf = (point) => data.names[recordings[point]];
const labelOf = (point) => coloring.categories[coloring.values[point]];
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// === Map ===

// Plotly has no option against multisampling and depth, without which markers look the same and move faster.
const getContext = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (type, options) {
  return getContext.call(this, type, { ...options, antialias: false, depth: false });
};

// Plotly reads markup in names.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const lasso = () => element("mode").getAttribute("aria-pressed") === "true";

function traces() {
  const points = coloring.categories.map(() => []);
  for (let point = 0; point < size; point++) points[coloring.values[point]].push(point);
  const found = points.map((members, index) => ({
    type: "scattergl",
    mode: "markers",
    name: plain(coloring.categories[index]),
    x: members.map((point) => positions[2 * point]),
    y: members.map((point) => positions[2 * point + 1]),
    customdata: members,
    hoverinfo: "none",
    marker: {
      size: size < FEW ? 8 : size < 10 * FEW ? 5 : 3,
      color: COLORS[index % COLORS.length],
      symbol: SYMBOLS[Math.floor(index / COLORS.length) % SYMBOLS.length],
      opacity: 0.8,
    },
  }));
  return found;
}

function layout() {
  const axis = { visible: false, zeroline: false, range: [-1.08, 1.08], autorange: false };
  const narrow = window.innerWidth <= 700;
  return {
    xaxis: { ...axis }, yaxis: { ...axis, scaleanchor: narrow ? undefined : "x" },
    dragmode: "pan", hovermode: "closest", uirevision: "kept", selectionrevision: coloring.name,
    paper_bgcolor: style("--background"), plot_bgcolor: style("--background"), font: { color: style("--text") },
    margin: { l: 0, r: 0, t: 0, b: 0 },
    legend: {
      uirevision: coloring.name, itemsizing: "constant", bgcolor: "rgba(0,0,0,0)",
      ...(narrow ? { orientation: "h" } : { x: 1, xanchor: "right", y: 1 }),
    },
    showlegend: true,
    shapes: current === null ? [] : [ring(current)],
  };
}

function draw() {
  return Plotly.react("map", traces(), { ...layout(), dragmode: lasso() ? "lasso" : "pan" },
    { displayModeBar: false, scrollZoom: true, responsive: true, plotGlPixelRatio: window.devicePixelRatio });
}

function ring(point) {
  return {
    type: "circle", xsizemode: "pixel", ysizemode: "pixel", xanchor: positions[2 * point], yanchor: positions[2 * point + 1],
    x0: -10, x1: 10, y0: -10, y1: 10, line: { color: style("--text"), width: 3 },
  };
}

function center(point) {
  const { xaxis, yaxis } = element("map")._fullLayout;
  const [x, y] = [positions[2 * point], positions[2 * point + 1]];
  const inside = (value, [low, high]) => value > low && value < high;
  if (inside(x, xaxis.range) && inside(y, yaxis.range)) return;
  const [width, height] = [xaxis.range[1] - xaxis.range[0], yaxis.range[1] - yaxis.range[0]];
  Plotly.relayout("map", {
    "xaxis.range": [x - width / 2, x + width / 2], "yaxis.range": [y - height / 2, y + height / 2],
  });
}

// === Thumbnails ===

const images = new Map();

function image(index) {
  if (!images.has(index)) {
    images.set(index, new Promise((resolve, reject) => {
      const loading = new Image();
      loading.onload = () => resolve(loading);
      loading.onerror = reject;
      loading.src = data.thumbnails.images[index];
    }));
  }
  return images.get(index);
}

async function drawThumbnail(canvas, point, scale) {
  canvas.hidden = !data.thumbnails;
  if (!data.thumbnails) return;
  const { width, height, columns, perImage } = data.thumbnails;
  const recording = recordings[point], index = recording % perImage;
  canvas.width = width;
  canvas.height = height;
  canvas.style.width = `${scale * width}px`;
  canvas.dataset.point = point;
  const loaded = await image(Math.floor(recording / perImage)).catch(() => null);
  if (!loaded || canvas.dataset.point !== String(point)) return;
  const left = (index % columns) * width, top = Math.floor(index / columns) * height;
  canvas.getContext("2d").drawImage(loaded, left, top, width, height, 0, 0, width, height);
}

// === One point ===

function describe(point) {
  return `${times[point].toFixed(2)} s, ${coloring.name}: ${labelOf(point)}`;
}

function choose(point, play) {
  current = point;
  element("chosen").hidden = false;
  element("chosen").querySelector("h2").textContent = nameOf(point);
  element("where").textContent = describe(point);
  drawThumbnail(element("picture"), point, 6);
  const list = element("nearest");
  list.replaceChildren();
  for (let rank = 0; rank < data.count; rank++) {
    const other = neighbors[point * data.count + rank];
    list.append(item(other, similarities[point * data.count + rank].toFixed(3)));
  }
  Plotly.relayout("map", { shapes: [ring(point)] });
  center(point);
  load(point, play);
}

function item(point, note) {
  const entry = document.createElement("li"), button = document.createElement("button"), remark = document.createElement("span");
  button.type = "button";
  button.textContent = nameOf(point);
  button.dataset.point = point;
  button.addEventListener("click", () => choose(point, true));
  remark.textContent = note ? ` ${note}` : "";
  entry.append(button, remark);
  return entry;
}

// === Sound ===

function load(point, play) {
  const player = element("player"), url = data.urls && data.urls[recordings[point]];
  element("problem").textContent = "";
  player.hidden = !url;
  if (!url) {
    player.pause();
    player.removeAttribute("src");
    player.load();
    element("problem").textContent = data.urls ? "This recording cannot be read." : "The page was made without recordings.";
    return;
  }
  if (player.getAttribute("src") !== url) player.src = url;
  if (player.error) player.load();
  if (player.readyState > 0 && isBeyondEnd(player)) return;
  player.currentTime = times[point];
  if (play) player.play().catch(() => {});
}

function isBeyondEnd(player) {
  if (current === null || times[current] < player.duration) return false;
  player.pause();
  element("problem").textContent = "The page stores only the first 30 s of this recording.";
  return true;
}

element("player").addEventListener("loadedmetadata", ({ target }) => isBeyondEnd(target));

element("player").addEventListener("error", () => {
  const shown = current !== null && data.urls && data.urls[recordings[current]];
  if (shown) element("problem").textContent = `The browser cannot play ${nameOf(current)}: the file is missing, or its format is not supported.`;
});

// === Events ===

function connect() {
  const map = element("map"), tip = element("tip");
  map.on("plotly_hover", ({ points: [hit], event }) => {
    tip.hidden = false;
    tip.querySelector("div").textContent = `${nameOf(hit.customdata)}\n${describe(hit.customdata)}`;
    tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - 240)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - 160)}px`;
    drawThumbnail(tip.querySelector("canvas"), hit.customdata, 4);
  });
  map.on("plotly_unhover", () => { tip.hidden = true; });
  map.on("plotly_click", ({ points: [hit] }) => choose(hit.customdata, true));
  map.on("plotly_selected", (event) => {
    if (event) select(event.points.map((hit) => hit.customdata)); // a click in the mode lasso selects nothing
  });
  map.on("plotly_deselect", () => select([]));
}

function select(points) {
  selection = points;
  showSelection();
  element("download").disabled = points.length === 0;
  element("download").textContent = points.length ? `Download ${points.length} (CSV)` : "Download selection (CSV)";
}

// Every canvas that is shown slows the moving map down.
function showSelection() {
  element("map").classList.toggle("selecting", lasso() || selection.length > 0);
}

element("mode").addEventListener("click", ({ target }) => {
  target.setAttribute("aria-pressed", String(!lasso()));
  showSelection();
  Plotly.relayout("map", { dragmode: lasso() ? "lasso" : "pan" });
});

element("download").addEventListener("click", () => {
  const quote = (text) => `"${text.replaceAll('"', '""')}"`;
  const lines = ["file,time,label", ...selection.map((point) => [quote(nameOf(point)), times[point].toFixed(2), quote(labelOf(point))].join())];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
  link.download = "selection.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});

element("find").addEventListener("input", ({ target }) => {
  const text = target.value.trim().toLowerCase();
  element("found").hidden = !text;
  if (!text) return;
  const hits = [];
  const seen = new Set();
  for (let point = 0; point < size; point++) {
    const recording = recordings[point];
    if (!seen.has(recording) && data.names[recording].toLowerCase().includes(text)) {
      seen.add(recording);
      hits.push(point);
    }
  }
  element("found").querySelector("h2").textContent = `${hits.length.toLocaleString("en")} found`;
  element("found").querySelector("ol").replaceChildren(...hits.slice(0, MAX_LISTED).map((point) => item(point)));
});

element("coloring").addEventListener("change", ({ target }) => {
  coloring = colorings[target.value];
  select([]);
  draw().then(() => { if (current !== null) element("where").textContent = describe(current); });
});

const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

// The closest point in a quarter of the plane.
function next(point, [dx, dy]) {
  let best = null, least = Infinity;
  for (let other = 0; other < size; other++) {
    const x = positions[2 * other] - positions[2 * point], y = positions[2 * other + 1] - positions[2 * point + 1];
    const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
    if (other !== point && along > 0 && across <= along && along + across < least) {
      least = along + across;
      best = other;
    }
  }
  return best;
}

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, audio") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (DIRECTIONS[event.key]) {
    event.preventDefault();
    const target = current === null ? 0 : next(current, DIRECTIONS[event.key]);
    if (target !== null) choose(target, true);
  } else if (event.key === " " && !event.target.matches("button, summary")) {
    event.preventDefault();
    const player = element("player");
    if (current === null || player.hidden) return;
    if (player.paused) player.play().catch(() => {});
    else player.pause();
  }
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

// === Quality ===

function listQuality() {
  const { duplicates, moreDuplicates, silent, clipped, unreadable, outliers } = data.quality;
  const points = (list) => list.map((point) => item(point));
  const pairs = duplicates.map(([a, b, cosine]) => {
    const entry = item(a, "and ");
    entry.append(...item(b, cosine.toFixed(4)).childNodes);
    return entry;
  });
  const lists = [
    ["Near-duplicates (cosine above 0.999)", pairs, duplicates.length + moreDuplicates],
    ["Outliers (far from the tenth neighbor)", points(outliers), outliers.length],
  ];
  if (data.urls) {
    lists.push(["Silent (below -60 dB)", points(silent), silent.length], ["Clipped", points(clipped), clipped.length]);
    if (unreadable.length) lists.push(["Unreadable", points(unreadable), unreadable.length]);
  }
  for (const [title, entries, count] of lists) {
    const details = document.createElement("details"), summary = document.createElement("summary"), list = document.createElement("ol");
    summary.textContent = `${title}: ${count.toLocaleString("en")}`;
    list.append(...entries.slice(0, MAX_LISTED));
    details.append(summary, list);
    element("quality").append(details);
  }
}

// === Start ===

document.title = data.title;
element("title").textContent = `${data.title} · ${data.names.length.toLocaleString("en")} ${data.names.length === 1 ? "recording" : "recordings"}`;
colorings.forEach(({ name }, index) => element("coloring").append(new Option(name, index)));
element("tip").querySelector("div").style.whiteSpace = "pre-line";
listQuality();
draw().then(() => {
  connect();
  document.body.dataset.ready = "true";
});
