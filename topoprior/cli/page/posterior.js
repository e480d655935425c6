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

function networkPoints(c, place, spread = false) { // the stds are drawn on the map alone
  if (!DATA.network || state.prior !== 0) return;
  DATA.network.layers.forEach((layer, index) => {
    if (state.layer >= 0 && state.layer !== index) return;
    c.fillStyle = c.strokeStyle = `hsl(${Math.round(137.5 * index) % 360} 80% 40%)`;
    layer.points.forEach(([u, v, su, sv]) => {
      const p = project(u, v || 0), [x, y] = place(p.u, p.v);
      c.beginPath(); c.arc(x, y, 2.5, 0, TAU); c.fill();
      if (spread && su !== undefined && state.layer >= 0) { c.lineWidth = 0.7; c.beginPath(); c.ellipse(x, y, su * MAP.width, (sv || 0) * MAP.height, 0, 0, TAU); c.stroke(); }
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

