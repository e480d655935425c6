// --- drawing

function colour(x) { // -1 blue, 0 white, 1 red
  const t = Math.max(-1, Math.min(1, x)), s = Math.abs(t), end = t > 0 ? [178, 24, 43] : [33, 90, 172];
  return end.map((e) => Math.round(247 + (e - 247) * s));
}
const css = (x) => `rgb(${colour(x).join()})`;

function context(id, width, height) {
  const canvas = $(id);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const c = canvas.getContext("2d", { willReadFrequently: id === "picture" });
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
  networkPoints(c, onMap, true);
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
  arrow(11, mid, 0, -70, "#c4314b");
  arrow(width - 11, mid, 0, kind() === "klein" ? 70 : -70, "#c4314b");
  if (kind() !== "circle") for (const y of [11, height - 11]) arrow(width / 2, y, 70, 0, "#2f7fd6");
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
  networkPoints(c, (u, v) => turn(inSpace(u, v)));
  c.strokeStyle = c.fillStyle = getComputedStyle(document.body).color;
  c.lineWidth = 2; c.beginPath();
  state.trail.forEach(([u, v], i) => { const [x, y] = turn(inSpace(u, kind() === "circle" ? 0 : v)); i ? c.lineTo(x, y) : c.moveTo(x, y); });
  c.stroke();
  const [x, y] = turn(inSpace(state.u, kind() === "circle" ? 0 : state.v));
  c.beginPath(); c.arc(x, y, 7, 0, TAU); c.fillStyle = project(state.u, state.v).mirrored ? "#e08a00" : "#111"; c.fill();
  c.strokeStyle = "#fff"; c.lineWidth = 2.5; c.stroke();
}

