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
  const view = { prior: prior().name, u: state.u.toFixed(4), v: state.v.toFixed(4), su: state.su, sv: state.sv, theme: state.dark ? "dark" : "light" };
  return "#" + new URLSearchParams(state.layer < 0 ? view : { ...view, layer: state.layer });
}

function restore() {
  const given = new URLSearchParams(location.hash.slice(1)), number = (key) => {
    const value = Number(given.get(key));
    if (given.has(key) && Number.isFinite(value) && Math.abs(value) < 1000) state[key] = value;
  };
  const index = DATA.priors.findIndex((p) => p.name === given.get("prior"));
  if (index >= 0) state.prior = index;
  number("u"); number("v"); number("su"); number("sv");
  const layer = Number(given.get("layer") ?? -1); // all layers without it
  state.layer = DATA.network && DATA.network.layers[layer] ? layer : -1;
  $("layer").value = String(state.layer);
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
  clearInterval(moving);
  const box = $("map").getBoundingClientRect();
  Object.assign(state, { u: (e.clientX - box.left) / box.width, v: 0.5 - (e.clientY - box.top) / box.height, trail: [] });
  if (kind() === "circle") state.v = 0;
  show();
}, (dx, dy) => move(dx, project(state.u, state.v).mirrored ? dy : -dy));
$("map").addEventListener("keydown", (e) => {
  const key = KEYS[e.key], far = e.shiftKey ? 0.1 : 0.02;
  clearInterval(moving);
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
  $("step").textContent = TOUR[step][0];
  step = (step + 1) % TOUR.length;
  $("next").textContent = last ? "once more" : "next";
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
