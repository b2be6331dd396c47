// State in one place; every change asks for one redraw.

const BACKGROUNDS = [
  { name: "", rgb: [17, 19, 23] },
  { name: "black", rgb: [0, 0, 0] },
  { name: "light", rgb: [236, 238, 241] },
];

async function start() {
  const scene = await readScene();
  scene.size = scene.bounds[1].map((high, k) => high - scene.bounds[0][k]);
  scene.middle = scene.bounds[1].map((high, k) => (high + scene.bounds[0][k]) / 2);
  const canvas = byId("world"), last = scene.frames.length - 1;
  const state = {
    frame: 0, playing: false, speed: 1, pointSize: 1, trailColour: "speed", trailLength: 14, ground: 0,
    background: [0, 0, 0], shown: {},
  };
  for (const box of document.querySelectorAll("[data-layer]")) state.shown[box.dataset.layer] = box.checked;
  const renderer = makeRenderer(canvas, scene);
  let asked = false;
  const redraw = () => { if (!asked) { asked = true; requestAnimationFrame(draw); } };
  const stance = makeStance(scene, canvas, redraw);
  const cell = gridCell(scene), unit = scene.metric ? " m" : "";

  function draw() {
    asked = false;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    renderer.current.fill(state.shown.cameras && !stance.through ? currentCamera(scene, state.frame) : []);
    renderer.draw(stance.view(state.frame, width, height, ratio), state);
    document.documentElement.dataset.drawn = String(state.frame);
  }

  function refreshLines() {
    const light = BACKGROUNDS[state.ground].name === "light";
    const grid = state.shown.grid && !stance.through ? gridLines(scene, cell, light) : [];
    renderer.fixed.fill([...grid, ...(state.shown.cameras ? cameraLines(scene, light, stance.through) : [])]);
    redraw();
  }

  function setFrame(frame) {
    state.frame = Math.max(0, Math.min(last, frame));
    byId("frame").value = state.frame;
    showPicture(scene, state);
    showClock(scene, state.frame);
    redraw();
  }

  function setPlaying(playing) {
    state.playing = playing && last > 0;
    byId("play").classList.toggle("playing", state.playing);
    if (state.playing) requestAnimationFrame(tick);
  }

  // Playing follows the clip's own time stamps; the last frame is held for half a second.
  let clock = 0, before = null;
  function tick(now) {
    if (!state.playing) { before = null; return; }
    if (before === null) clock = scene.times_s[state.frame];
    else clock += (Math.min(now - before, 250) / 1000) * state.speed;
    before = now;
    if (clock > scene.times_s[last] + 0.5) clock = scene.times_s[0];
    let frame = 0;
    while (frame < last && scene.times_s[frame + 1] <= clock) frame++;
    if (frame !== state.frame) setFrame(frame);
    requestAnimationFrame(tick);
  }

  function setThrough(through) {
    stance.look(state.frame, through);
    byId("through").classList.toggle("on", through);
    refreshLines();
  }

  function setGround(ground) {
    state.ground = ground % BACKGROUNDS.length;
    state.background = BACKGROUNDS[state.ground].rgb.map((v) => v / 255);
    document.body.className = BACKGROUNDS[state.ground].name;
    refreshLines();
  }

  function setLayer(layer, shown) {
    state.shown[layer] = shown;
    document.querySelector(`[data-layer=${layer}]`).checked = shown;
    showPicture(scene, state);
    refreshLines();
  }

  function setTrailColour(name) {
    state.trailColour = byId("trail-colour").value = name === "track" ? "track" : "speed";
    byId("speed-scale").hidden = state.trailColour !== "speed";
    redraw();
  }

  function reset() {
    setThrough(false);
    stance.reset();
  }

  for (const box of document.querySelectorAll("[data-layer]"))
    box.addEventListener("change", () => setLayer(box.dataset.layer, box.checked));
  byId("frame").max = last;
  byId("frame").addEventListener("input", (event) => { before = null; setFrame(Number(event.target.value)); });
  byId("size").addEventListener("input", (event) => { state.pointSize = Number(event.target.value); redraw(); });
  byId("trail-length").addEventListener("input", (event) => { state.trailLength = Number(event.target.value); redraw(); });
  byId("trail-colour").addEventListener("change", (event) => setTrailColour(event.target.value));
  byId("speed").addEventListener("change", (event) => { state.speed = Number(event.target.value); });
  byId("play").addEventListener("click", () => setPlaying(!state.playing));
  byId("through").addEventListener("click", () => setThrough(!stance.through));
  byId("reset").addEventListener("click", reset);
  byId("background").addEventListener("click", () => setGround(state.ground + 1));
  byId("fold").addEventListener("click", () => byId("panel").classList.toggle("folded"));
  window.addEventListener("resize", redraw);
  window.addEventListener("hashchange", readHash);
  listenToHands(canvas, stance, () => { if (stance.through) setThrough(false); });

  const keys = {
    " ": () => setPlaying(!state.playing),
    ArrowRight: () => { setPlaying(false); setFrame(state.frame + 1); },
    ArrowLeft: () => { setPlaying(false); setFrame(state.frame - 1); },
    Home: () => setFrame(0), End: () => setFrame(last),
    c: () => setThrough(!stance.through), r: reset, b: () => setGround(state.ground + 1),
  };
  window.addEventListener("keydown", (event) => {
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("select") || (event.target.matches("button") && event.key === " ")) return;
    if (event.target.matches("#size, #trail-length") && event.key.startsWith("Arrow")) return;
    event.preventDefault();
    act();
  });

  // scene.html#frame=12&view=camera&hide=static,grid&background=light&turn=40,10&trails=track opens in that state.
  function readHash() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const layer of (wanted.get("hide") || "").split(",")) if (layer in state.shown) setLayer(layer, false);
    if (wanted.has("background")) setGround(Math.max(0, BACKGROUNDS.findIndex((b) => b.name === wanted.get("background"))));
    if (wanted.has("frame")) setFrame(Number(wanted.get("frame")) || 0);
    if (wanted.has("trails")) setTrailColour(wanted.get("trails"));
    if (wanted.has("turn")) stance.orbit(...wanted.get("turn").split(",").map((deg) => (Number(deg) * Math.PI) / 180 / 0.005));
    if (wanted.has("zoom")) stance.zoom(1 / (Number(wanted.get("zoom")) || 1));
    setThrough(wanted.get("view") === "camera");
  }

  byId("trail-length").max = Math.max(1, last);
  state.trailLength = Number(byId("trail-length").value);
  byId("grid-cell").textContent = `${rounded(cell)}${unit}`;
  document.querySelector("footer").hidden = last === 0;
  if (window.innerWidth < 680) byId("panel").classList.add("folded");
  writeHeader(scene);
  writeCounts(scene, unit);
  paintTrust(scene);
  setGround(0);
  setFrame(0);
  readHash();
}

// A round number of units, about a tenth of the scene.
function gridCell(scene) {
  const wanted = 0.5 * scene.median_depth, power = 10 ** Math.floor(Math.log10(wanted));
  return power * [5, 2, 1].find((step) => step * power <= wanted);
}

// A square on the floor around the middle of the scene, fading outwards.
function gridLines(scene, cell, light) {
  const up = unit(scene.stance.up), half = 12;
  const east = unit(cross(Math.abs(up[0]) < 0.9 ? [1, 0, 0] : [0, 0, 1], up)), north = cross(up, east);
  const snapped = (axis) => Math.round(dot(scene.stance.target, axis) / cell) * cell;
  const middle = add(add(scaled(up, scene.floor), east, snapped(east)), north, snapped(north));
  const ink = light ? [0.2, 0.24, 0.3] : [0.62, 0.68, 0.78], segments = [];
  for (let i = -half; i <= half; i++)
    for (let j = -half; j < half; j++) {
      const fade = 0.26 * Math.max(0, 1 - Math.hypot(i, j + 0.5) / half);
      if (fade <= 0) continue;
      for (const [a, b] of [[east, north], [north, east]]) {
        const start = add(add(middle, a, i * cell), b, j * cell);
        segments.push([...start, ...add(start, b, cell), ...ink, fade, 1]);
      }
    }
  return segments;
}

function frustum(scene, frame, depth, colour, width) {
  const { x, y, eye } = cameraAxes(scene.world_from_cam[frame]), z = cross(x, y);
  const [fx, fy, cx, cy] = scene.intrinsics[frame];
  const corner = (u, v) => add(add(add(eye, x, ((u - cx) / fx) * depth), y, ((v - cy) / fy) * depth), z, depth);
  const w = scene.width, h = scene.height, rim = [corner(0, 0), corner(w, 0), corner(w, h), corner(0, h)];
  const top = add(scaled(add(rim[0], rim[1]), 0.5), y, (-0.35 * h * depth) / fy);
  const pairs = rim.flatMap((p, k) => [[eye, p], [p, rim[(k + 1) % 4]]]);
  pairs.push([rim[0], top], [top, rim[1]]);
  return pairs.map(([a, b]) => [...a, ...b, ...colour, width]);
}

// The path, and some of the cameras along it.
function cameraLines(scene, light, pathOnly) {
  if (pathOnly) return [];
  const ink = light ? [0.3, 0.35, 0.42] : [0.68, 0.74, 0.84];
  const eyes = scene.world_from_cam.map((pose) => cameraAxes(pose).eye), segments = [];
  for (let t = 1; t < eyes.length; t++) segments.push([...eyes[t - 1], ...eyes[t], ...ink, 0.9, 1.6]);
  const every = Math.max(1, Math.ceil(eyes.length / 14));
  for (let t = 0; t < eyes.length; t += every)
    segments.push(...frustum(scene, t, 0.6 * scene.frustum_depth, [...ink, 0.4], 1));
  return segments;
}

function currentCamera(scene, frame) {
  return frustum(scene, frame, scene.frustum_depth, [1, 0.69, 0.25, 1], 2);
}

start().catch((error) => {
  byId("failure").textContent = error.message;
  byId("failure").hidden = false;
  document.documentElement.dataset.drawn = "failed";
  throw error;
});
