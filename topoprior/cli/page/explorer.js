"use strict";
// Points are lifts: state.u and state.v may be any numbers, and every picture is a function of the point below them.
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const TAU = 2 * Math.PI;
const state = { prior: 0, u: 0.3, v: 0.2, su: 0.05, sv: 0.05, layer: -1, dark: false, trail: [] };
const prior = () => DATA.priors[state.prior];
const kind = () => prior().space;

// --- the space: one point of the fundamental domain 0 <= u < 1, -1/2 <= v < 1/2, and how often the walk was mirrored

function project(u, v) {
  const turns = Math.floor(u);
  const mirrored = kind() === "klein" && turns % 2 !== 0;
  const w = kind() === "circle" ? 0 : (mirrored ? -v : v);
  return { u: u - turns, v: w - Math.floor(w + 0.5), flips: kind() === "klein" ? Math.abs(turns) : 0, mirrored };
}

// --- the decoder: g(z) = sum_f A_f cos(2 pi f.z) + B_f sin(2 pi f.z)

function decode(u, v, p = prior()) {
  const g = new Float64Array(p.size * p.size);
  for (const [f, a, b] of p.waves) {
    const t = TAU * (f[0] * u + (f[1] || 0) * v), c = Math.cos(t), s = Math.sin(t);
    for (let i = 0; i < g.length; i++) g[i] += a[i] * c + b[i] * s;
  }
  return g;
}

function largest(p) {
  if (!p.limit) {
    p.limit = 0;
    for (let i = 0; i < 24; i++) for (let j = 0; j < 24; j++)
      for (const x of decode(i / 24, j / 24 - 0.5, p)) p.limit = Math.max(p.limit, Math.abs(x));
  }
  return p.limit;
}

function interpolate(g, n, x, y) { // the polynomial through the pixels' centers; quadratic for 3x3, as Klein kernels are
  const basis = (t) => {
    const out = [];
    for (let i = 0; i < n; i++) {
      let value = 1;
      for (let j = 0; j < n; j++) if (j !== i) value *= (t - j) / (i - j);
      out.push(value);
    }
    return out;
  };
  const row = basis(y), column = basis(x);
  let sum = 0;
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) sum += row[i] * column[j] * g[i * n + j];
  return sum;
}

// --- drawing

function colour(x) { // -1 blue, 0 white, 1 red
  const t = Math.max(-1, Math.min(1, x)), s = Math.abs(t), end = t > 0 ? [178, 24, 43] : [33, 90, 172];
  return end.map((e) => Math.round(247 + (e - 247) * s));
}
const css = (x) => `rgb(${colour(x).join()})`;

function context(id, width, height) {
  const canvas = $(id);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const c = canvas.getContext("2d");
  c.clearRect(0, 0, width, height);
  return c;
}

function paintKernel(c, g, n, x, y, size) {
  const limit = largest(prior()), step = size / n;
  for (let i = 0; i < n * n; i++) {
    c.fillStyle = css(g[i] / limit);
    c.fillRect(x + (i % n) * step, y + Math.floor(i / n) * step, step + 0.3, step + 0.3);
  }
}

function paintGrid(id, values, width, height) {
  const c = context(id, width, height), image = c.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = colour(values(i % width, Math.floor(i / width)));
    image.data.set([r, g, b, 255], 4 * i);
  }
  c.putImageData(image, 0, 0);
}

const MAP = { width: 840, height: 560 };
const onMap = (u, v) => [u * MAP.width, (0.5 - v) * MAP.height];

function drawMap() {
  const { width, height } = MAP, c = context("map", width, height), n = prior().size;
  const columns = 14, rows = kind() === "circle" ? 1 : 9;
  for (let i = 0; i < columns; i++) for (let j = 0; j < rows; j++) {
    const u = (i + 0.5) / columns, v = rows === 1 ? 0 : 0.5 - (j + 0.5) / rows;
    const [x, y] = onMap(u, v), size = Math.min(width / columns, height / Math.max(rows, 9)) * 0.8;
    paintKernel(c, decode(u, v), n, x - size / 2, y - size / 2, size);
  }
  edges(c);
  networkPoints(c);
  c.strokeStyle = getComputedStyle(document.body).color;
  c.lineWidth = 2.5;
  c.beginPath();
  let last = null;
  for (const [u, v] of state.trail) {
    const p = project(u, v), [x, y] = onMap(p.u, p.v);
    if (last && Math.hypot(x - last[0], y - last[1]) < height / 2) c.lineTo(x, y); else c.moveTo(x, y);
    last = [x, y];
  }
  c.stroke();
  walker(c);
}

function edges(c) { // arrows of one colour are glued, head to head
  const { width, height } = MAP, mid = height / 2;
  const arrow = (x, y, dx, dy, color) => {
    const norm = Math.hypot(dx, dy), ax = dx / norm, ay = dy / norm;
    c.strokeStyle = color; c.lineWidth = 5; c.beginPath();
    c.moveTo(x - dx, y - dy); c.lineTo(x + dx, y + dy);
    c.moveTo(x + dx - 16 * ax - 9 * ay, y + dy - 16 * ay + 9 * ax); c.lineTo(x + dx, y + dy);
    c.lineTo(x + dx - 16 * ax + 9 * ay, y + dy - 16 * ay - 9 * ax);
    c.stroke();
  };
  arrow(4, mid, 0, -70, "#c4314b");
  arrow(width - 4, mid, 0, kind() === "klein" ? 70 : -70, "#c4314b");
  if (kind() !== "circle") for (const y of [4, height - 4]) arrow(width / 2, y, 70, 0, "#2f7fd6");
}

function walker(c) { // a hand of one side only: mirrored, it is another
  const p = project(state.u, state.v), [x, y] = onMap(p.u, p.v), s = p.mirrored ? 1 : -1;
  for (const [dx, dy] of [[0, 0], [MAP.width, 0], [-MAP.width, 0]]) {
    c.beginPath(); c.arc(x + dx, y + dy, 11, 0, TAU);
    c.fillStyle = p.mirrored ? "#e08a00" : "#111"; c.fill();
    c.lineWidth = 3; c.strokeStyle = "#fff"; c.stroke();
    c.beginPath(); c.moveTo(x + dx - 4, y + dy); c.lineTo(x + dx + 5, y + dy); c.lineTo(x + dx + 5, y + dy + 5 * s); c.stroke();
    if (kind() === "klein") break;
  }
}

function drawKernel() {
  const g = decode(state.u, state.v), n = prior().size, limit = largest(prior());
  paintKernel(context("kernel", 210, 210), g, n, 0, 0, 210);
  paintGrid("smooth", (i, j) => interpolate(g, n, (i + 0.5) / 60 * n - 0.5, (j + 0.5) / 60 * n - 0.5) / limit, 60, 60);
  paintGrid("bar", (i) => i / 127.5 - 1, 256, 1);
  $("low").textContent = (-limit).toFixed(2);
  $("high").textContent = limit.toFixed(2);
  return g;
}

// --- the picture

const SIDE = 120;
let gray = null;

function builtIn() {
  const canvas = document.createElement("canvas"), c = canvas.getContext("2d");
  canvas.width = canvas.height = SIDE;
  c.fillStyle = "#777"; c.fillRect(0, 0, SIDE, SIDE);
  c.fillStyle = "#eee"; c.beginPath(); c.arc(34, 34, 22, 0, TAU); c.fill();
  c.strokeStyle = "#222"; c.lineWidth = 3; c.beginPath(); c.arc(86, 36, 20, 0, TAU); c.stroke();
  for (let i = 0; i < 8; i++) { c.lineWidth = 2; c.beginPath(); c.moveTo(8, 66 + 6 * i); c.lineTo(52, 74 + 6 * i); c.stroke(); }
  c.fillStyle = "#111"; c.font = "bold 46px serif"; c.fillText("K", 66, 108);
  return canvas;
}

function takePicture(source, width, height) {
  const c = context("picture", SIDE, SIDE), side = Math.min(width, height);
  c.drawImage(source, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIDE, SIDE);
  const pixels = c.getImageData(0, 0, SIDE, SIDE).data;
  gray = new Float64Array(SIDE * SIDE);
  for (let i = 0; i < gray.length; i++) gray[i] = (0.299 * pixels[4 * i] + 0.587 * pixels[4 * i + 1] + 0.114 * pixels[4 * i + 2]) / 255;
}

function drawFiltered(g) {
  const n = prior().size, half = (n - 1) / 2, norm = g.reduce((s, x) => s + Math.abs(x), 0) / 2;
  paintGrid("filtered", (x, y) => {
    let sum = 0;
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
      const a = Math.min(SIDE - 1, Math.max(0, y + i - half)), b = Math.min(SIDE - 1, Math.max(0, x + j - half));
      sum += g[i * n + j] * gray[a * SIDE + b];
    }
    return 2 * sum / norm;
  }, SIDE, SIDE);
}

// --- three dimensions: the figure-8 immersion of the Klein bottle, the torus, the circle

const view = { yaw: 0.6, pitch: 0.9 };

function inSpace(u, v) {
  const t = TAU * u, w = TAU * v;
  if (kind() === "circle") return [2.2 * Math.cos(t), 2.2 * Math.sin(t), 0];
  if (kind() === "torus") return [(2 + 0.9 * Math.cos(w)) * Math.cos(t), (2 + 0.9 * Math.cos(w)) * Math.sin(t), 0.9 * Math.sin(w)];
  const c = Math.cos(t / 2), s = Math.sin(t / 2), a = Math.sin(w), b = Math.sin(2 * w);
  const r = 2 + c * a - s * b;
  return [r * Math.cos(t), r * Math.sin(t), s * a + c * b];
}

function drawSolid() {
  const size = 360, c = context("solid", size, size), cy = Math.cos(view.yaw), sy = Math.sin(view.yaw), cp = Math.cos(view.pitch), sp = Math.sin(view.pitch);
  const turn = ([x, y, z]) => {
    const a = cy * x - sy * y, b = sy * x + cy * y;
    return [size / 2 + 52 * a, size / 2 - 52 * (sp * b + cp * z), sp * z - cp * b]; // right, down, towards the eye
  };
  const shapes = [], nu = 60, nv = kind() === "circle" ? 1 : 30;
  for (let i = 0; i < nu; i++) for (let j = 0; j < nv; j++) {
    const u = i / nu, v = j / nv - 0.5, du = 1 / nu, dv = 1 / nv;
    const corners = nv === 1 ? [[u, 0], [u + du, 0]] : [[u, v], [u + du, v], [u + du, v + dv], [u, v + dv]];
    const points = corners.map(([a, b]) => turn(inSpace(a, b)));
    const depth = points.reduce((s, p) => s + p[2], 0) / points.length;
    const ridge = Math.cos(TAU * (v + dv / 2)) ** 2;
    shapes.push({ points, depth, color: `hsla(${Math.round(360 * u)} 65% ${Math.round(45 + 30 * ridge)}% / .82)` });
  }
  shapes.sort((a, b) => a.depth - b.depth);
  for (const { points, color } of shapes) {
    c.beginPath();
    points.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
    if (nv === 1) { c.strokeStyle = color; c.lineWidth = 9; } else { c.closePath(); c.fillStyle = color; c.fill(); c.strokeStyle = "rgba(0,0,0,.18)"; c.lineWidth = 0.5; }
    c.stroke();
  }
  c.strokeStyle = c.fillStyle = getComputedStyle(document.body).color;
  c.lineWidth = 2; c.beginPath();
  state.trail.forEach(([u, v], i) => { const [x, y] = turn(inSpace(u, kind() === "circle" ? 0 : v)); i ? c.lineTo(x, y) : c.moveTo(x, y); });
  c.stroke();
  const [x, y] = turn(inSpace(state.u, kind() === "circle" ? 0 : state.v));
  c.beginPath(); c.arc(x, y, 7, 0, TAU); c.fillStyle = project(state.u, state.v).mirrored ? "#e08a00" : "#111"; c.fill();
  c.strokeStyle = "#fff"; c.lineWidth = 2.5; c.stroke();
}

// --- the posterior: a wrapped normal around the point

const NOISE = Array.from({ length: 16 }, (_, i) => { // sixteen fixed normal pairs: a low-discrepancy set by Box and Muller
  const r = Math.sqrt(-2 * Math.log((i + 0.5) / 16)), t = TAU * ((i * 0.618034) % 1);
  return [r * Math.cos(t), r * Math.sin(t)];
});

function kappa(s) { // KL of the wrapped normal of std s on a circle of length 1 from the uniform law
  if (s < 0.08) return -0.5 * Math.log(TAU * Math.E * s * s);
  const r = Math.exp(-((TAU * s) ** 2));
  let sum = 0;
  for (let n = 1; n < 60; n++) {
    const power = r ** n;
    if (power < 1e-18) break;
    sum += Math.log1p(-power) - 2 * (n % 2 ? -1 : 1) / n * r ** (n * (n + 1) / 2) / (1 - power);
  }
  return sum;
}

function wrapped(x, s, period) {
  const m = Math.ceil(7 * s / period) + 1, mid = Math.round(x / period);
  let sum = 0;
  for (let k = -m; k <= m; k++) sum += Math.exp(-0.5 * ((x - (mid + k) * period) / s) ** 2);
  return sum / (s * Math.sqrt(TAU));
}

function exactKL() { // the trapezoid rule on the fundamental domain, whose area is 1; spectrally exact where the grid resolves
  if (kind() === "circle") return kappa(state.su);
  if (kind() === "torus") return kappa(state.su) + kappa(state.sv);
  const n = 240, p = project(state.u, state.v), line = Array.from({ length: n }, (_, i) => i / n);
  const u0 = line.map((x) => wrapped(x - p.u, state.su, 2)), u1 = line.map((x) => wrapped(x + 1 - p.u, state.su, 2));
  const v0 = line.map((y) => wrapped(y - p.v, state.sv, 1)), v1 = line.map((y) => wrapped(-y - p.v, state.sv, 1));
  let sum = 0;
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
    const q = u0[i] * v0[j] + u1[i] * v1[j];
    if (q > 1e-300) sum += q * Math.log(q);
  }
  return Math.max(0, sum / n ** 2);
}

function drawPosterior() {
  const c = context("draws", 280, 76), n = prior().size;
  NOISE.forEach(([a, b], i) => paintKernel(c, decode(state.u + a * state.su, state.v + b * state.sv), n, (i % 8) * 35 + 2, Math.floor(i / 8) * 38 + 4, 30));
  $("kl").textContent = exactKL().toFixed(3);
  const bound = kind() === "klein" ? kappa(state.su / 2) + kappa(state.sv) : exactKL();
  $("bound").textContent = bound.toFixed(3);
  $("sunow").textContent = state.su.toFixed(3);
  $("svnow").textContent = state.sv.toFixed(3);
}

// --- the nearest point to a kernel: alpha and beta are known in closed form at every point of a grid that shrinks

function nearest(w) {
  const mean = w.reduce((s, x) => s + x, 0) / w.length, rest = w.map((x) => x - mean);
  const energy = rest.reduce((s, x) => s + x * x, 0), whole = w.reduce((s, x) => s + x * x, 0);
  let best = { gain: -1, u: 0, v: 0 };
  const look = (u, v) => {
    const g = decode(u, v), middle = g.reduce((s, x) => s + x, 0) / g.length;
    let dot = 0, norm = 0;
    for (let i = 0; i < g.length; i++) { dot += rest[i] * (g[i] - middle); norm += (g[i] - middle) ** 2; }
    if (norm > 1e-12 && dot * dot / norm > best.gain) best = { gain: dot * dot / norm, u, v, alpha: dot / norm };
  };
  for (let i = 0; i < 60; i++) for (let j = 0; j < (kind() === "circle" ? 1 : 60); j++) look(i / 60, kind() === "circle" ? 0 : j / 60 - 0.5);
  for (let step = 1 / 120; step > 1e-6; step /= 2) {
    const { u, v } = best;
    for (const a of [-step, 0, step]) for (const b of [-step, 0, step]) look(u + a, kind() === "circle" ? 0 : v + b);
  }
  return { ...best, residual: Math.sqrt(Math.max(0, energy - Math.max(0, best.gain)) / whole) };
}

function find() {
  const numbers = ($("paste").value.match(/-?\d*\.?\d+(?:e[-+]?\d+)?/gi) || []).map(Number), n = prior().size;
  if (numbers.length !== n * n || !numbers.some((x) => x !== numbers[0])) {
    $("found").textContent = `Expected ${n * n} numbers that are not all equal, found ${numbers.length}.`;
    return;
  }
  const at = nearest(numbers);
  Object.assign(state, { u: at.u, v: at.v, trail: [] });
  show();
  const p = project(at.u, at.v);
  $("found").textContent = `Nearest: u = ${p.u.toFixed(4)}, v = ${p.v.toFixed(4)}, alpha = ${at.alpha.toFixed(4)}; ${(100 * at.residual).toFixed(1)} % of its norm is left over.`;
}

// --- kernels of a network

function networkPoints(c) {
  if (!DATA.network || state.prior !== 0) return;
  DATA.network.layers.forEach((layer, index) => {
    if (state.layer >= 0 && state.layer !== index) return;
    c.fillStyle = c.strokeStyle = `hsl(${Math.round(137.5 * index) % 360} 80% 40%)`;
    layer.points.forEach(([u, v, su, sv]) => {
      const p = project(u, v || 0), [x, y] = onMap(p.u, p.v);
      c.beginPath(); c.arc(x, y, 2.5, 0, TAU); c.fill();
      if (su !== undefined && state.layer >= 0) { c.lineWidth = 0.7; c.beginPath(); c.ellipse(x, y, su * MAP.width, (sv || 0) * MAP.height, 0, 0, TAU); c.stroke(); }
    });
  });
}

function describeNetwork() {
  if (!DATA.network) return;
  $("network").hidden = state.prior !== 0;
  const chosen = DATA.network.layers.filter((_, i) => state.layer < 0 || i === state.layer);
  const count = chosen.reduce((s, l) => s + l.count, 0), shown = chosen.reduce((s, l) => s + l.points.length, 0);
  let text = `${shown} of ${count} kernels, at ${DATA.network.posterior ? "the means of their posteriors" : "their nearest points"}.`;
  const one = chosen[0];
  if (chosen.length === 1 && one.residual !== undefined) text += ` The decoder leaves over ${(100 * one.residual).toFixed(0)} % of this layer.`;
  if (chosen.length === 1 && one.spread) text += ` Median std of the posterior: ${one.spread.map((s) => s.toFixed(3)).join(", ")} (ellipses).`;
  $("netnote").textContent = text;
}

// --- everything

const NAMES = { klein: "the Klein bottle", torus: "the torus", circle: "the circle" };
const GLUE = {
  klein: "Left and right edges are glued with a flip (v becomes -v), top and bottom without: walk off the right edge.",
  torus: "Left and right, top and bottom edges are glued without a flip.",
  circle: "The left and the right end are glued.",
};
const SOLID = {
  klein: "The bottle has to cross itself in three dimensions; on the map it does not. Hue: u, lightness: ridge or edge.",
  torus: "Hue: u.", circle: "Hue: u.",
};
const TOUR = [
  ["1 of 3. Up and down turns an edge into a ridge and back: v is a phase.", { u: 0.25, v: 0 }, [0, 0.5], 40],
  ["2 of 3. To the right turns the filter by half a turn; walk off the edge: the kernel does not jump, and the walker comes back mirrored.", { u: 0.5, v: 0.2 }, [1, 0], 60],
  ["3 of 3. A posterior is a cloud around a point. Wide enough, it has forgotten the point, and its KL is 0.", { u: 0.3, v: 0.2 }, [0, 0], 40],
];
let step = 0, moving = null;

function show() {
  const p = project(state.u, state.v);
  drawMap();
  const g = drawKernel();
  drawFiltered(g);
  drawSolid();
  drawPosterior();
  describeNetwork();
  $("where").textContent = kind() === "circle" ? `u = ${p.u.toFixed(3)}` :
    `u = ${p.u.toFixed(3)}, v = ${p.v.toFixed(3)}` + (kind() === "klein" ? `; flips: ${p.flips}${p.mirrored ? ", mirrored" : ""}` : "");
  const at = kind() === "circle" ? `[[${p.u.toFixed(4)}]]` : `[[${p.u.toFixed(4)}, ${p.v.toFixed(4)}]]`;
  $("code").textContent = `import torch\nimport topoprior as tp\n\nprior = tp.get_prior(${JSON.stringify(prior().name)})\nkernel = prior.decode(torch.tensor(${at}))[0]\n# ${Array.from(g, (x) => x.toFixed(3)).join(" ")}`;
  Object.assign(document.body.dataset, { u: p.u, v: p.v, flips: p.flips, mirrored: p.mirrored, kernel: Array.from(g).join(" ") });
  clearTimeout(show.timer);
  show.timer = setTimeout(() => history.replaceState(null, "", address()), 150);
}

function address() {
  return "#" + new URLSearchParams({ prior: prior().name, u: state.u.toFixed(4), v: state.v.toFixed(4), su: state.su, sv: state.sv, theme: state.dark ? "dark" : "light" });
}

function restore() {
  const given = new URLSearchParams(location.hash.slice(1)), number = (key) => {
    const value = Number(given.get(key));
    if (given.has(key) && Number.isFinite(value) && Math.abs(value) < 1000) state[key] = value;
  };
  const index = DATA.priors.findIndex((p) => p.name === given.get("prior"));
  if (index >= 0) state.prior = index;
  number("u"); number("v"); number("su"); number("sv");
  state.su = Math.min(0.6, Math.max(0.01, state.su)); state.sv = Math.min(0.6, Math.max(0.01, state.sv));
  state.dark = given.has("theme") ? given.get("theme") === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  state.trail = [];
  $("su").value = state.su; $("sv").value = state.sv;
  choose();
}

function choose() {
  document.documentElement.classList.toggle("dark", state.dark);
  $("prior").value = String(state.prior);
  $("space").textContent = `${prior().name}: ${prior().size}x${prior().size} kernels over ${NAMES[kind()]}`;
  $("glue").textContent = GLUE[kind()];
  $("solidnote").textContent = SOLID[kind()];
  $("svrow").hidden = kind() === "circle";
  $("paste").placeholder = Array.from(decode(0.3, 0.2), (x) => x.toFixed(2)).join(" ");
  show();
}

function move(du, dv) {
  if (!state.trail.length) state.trail.push([state.u, state.v]);
  state.u += du;
  if (kind() !== "circle") state.v += dv;
  state.trail.push([state.u, state.v]);
  if (state.trail.length > 2000) state.trail.shift();
  show();
}

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function onDrag(canvas, start, drag) {
  let last = null;
  canvas.addEventListener("pointerdown", (e) => { last = [e.clientX, e.clientY]; start(e); });
  window.addEventListener("pointermove", (e) => { // the window's, as a walk goes on beyond the edge
    if (!last) return;
    drag((e.clientX - last[0]) / canvas.clientWidth, (e.clientY - last[1]) / canvas.clientHeight);
    last = [e.clientX, e.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, () => { last = null; });
}

// Pointer and keys speak of the map: for a walker that came back mirrored, the map's "up" is the lift's "down".
onDrag($("map"), (e) => {
  const box = $("map").getBoundingClientRect();
  Object.assign(state, { u: (e.clientX - box.left) / box.width, v: 0.5 - (e.clientY - box.top) / box.height, trail: [] });
  if (kind() === "circle") state.v = 0;
  show();
}, (dx, dy) => move(dx, project(state.u, state.v).mirrored ? dy : -dy));
$("map").addEventListener("keydown", (e) => {
  const key = KEYS[e.key], far = e.shiftKey ? 0.1 : 0.02;
  if (key) move(far * key[0], far * key[1] * (project(state.u, state.v).mirrored ? -1 : 1));
  else if (e.key === "Home") { Object.assign(state, { u: 0.3, v: 0.2, trail: [] }); show(); }
  else return;
  e.preventDefault();
});
onDrag($("solid"), () => {}, (dx, dy) => { view.yaw += 4 * dx; view.pitch += 3 * dy; drawSolid(); });
$("solid").addEventListener("keydown", (e) => {
  const key = KEYS[e.key];
  if (!key) return;
  view.yaw += 0.1 * key[0]; view.pitch -= 0.1 * key[1]; drawSolid(); e.preventDefault();
});
for (const id of ["su", "sv"]) $(id).addEventListener("input", () => { state[id] = Number($(id).value); show(); });
$("prior").addEventListener("change", () => { state.prior = Number($("prior").value); state.trail = []; choose(); });
$("theme").addEventListener("click", () => { state.dark = !state.dark; choose(); });
$("find").addEventListener("click", find);
$("file").addEventListener("change", () => {
  const file = $("file").files[0];
  if (!file) return;
  const image = new Image();
  image.onload = () => { takePicture(image, image.naturalWidth, image.naturalHeight); URL.revokeObjectURL(image.src); show(); };
  image.onerror = () => { $("where").textContent = "This file is no picture that the browser can read."; };
  image.src = URL.createObjectURL(file);
});
$("camera").hidden = !(navigator.mediaDevices && navigator.mediaDevices.getUserMedia);
let film = null;
$("camera").addEventListener("click", async () => {
  if (film) { film.getTracks().forEach((t) => t.stop()); film = null; return; }
  try { film = await navigator.mediaDevices.getUserMedia({ video: true }); } catch (error) { $("where").textContent = "No webcam: " + error.message; return; }
  const video = document.createElement("video");
  video.srcObject = film; video.muted = true;
  await video.play();
  const frame = () => {
    if (!film) return;
    takePicture(video, video.videoWidth, video.videoHeight);
    drawFiltered(decode(state.u, state.v));
    setTimeout(() => requestAnimationFrame(frame), 80);
  };
  frame();
});

async function copy(text, button) {
  const label = button.textContent;
  try { await navigator.clipboard.writeText(text); button.textContent = "copied"; } catch { button.textContent = "select and copy it yourself"; }
  setTimeout(() => { button.textContent = label; }, 1500);
}
$("copy").addEventListener("click", () => copy($("code").textContent, $("copy")));
$("link").addEventListener("click", () => { history.replaceState(null, "", address()); copy(location.href, $("link")); });
window.addEventListener("hashchange", restore);
if (parent !== window) { // in a frame, whose page gives it the height that it needs
  new ResizeObserver(() => parent.postMessage({ height: document.body.offsetHeight }, "*")).observe(document.body);
}

$("next").addEventListener("click", () => {
  clearInterval(moving);
  const [, start, [du, dv], count] = TOUR[step], last = step === TOUR.length - 1;
  const slow = matchMedia("(prefers-reduced-motion: reduce)").matches;
  Object.assign(state, { ...start, trail: [], su: 0.05, sv: 0.05 });
  let done = 0;
  moving = setInterval(() => {
    if (last) { state.su = state.sv = 0.05 + 0.5 * (done + 1) / count; $("su").value = state.su; $("sv").value = state.sv; show(); }
    else move(du / count, dv / count);
    if (++done >= count) clearInterval(moving);
  }, slow ? 0 : 40);
  step = (step + 1) % TOUR.length;
  $("step").textContent = TOUR[step][0];
});

DATA.priors.forEach((p, i) => $("prior").add(new Option(p.name, String(i))));
if (DATA.network) {
  $("netname").textContent = DATA.network.name;
  $("layer").add(new Option("all layers", "-1"));
  DATA.network.layers.forEach((l, i) => $("layer").add(new Option(l.name, String(i))));
  $("layer").addEventListener("change", () => { state.layer = Number($("layer").value); show(); });
}
$("step").textContent = TOUR[0][0];
takePicture(builtIn(), SIDE, SIDE);
restore();
