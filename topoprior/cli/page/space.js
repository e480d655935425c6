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

