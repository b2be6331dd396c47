// The words and controls around the picture.

const byId = (id) => document.getElementById(id);

function element(tag, text, name) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

const rounded = (value) => Number(value.toPrecision(3)).toLocaleString("en");
const counted = (n) => (n >= 1e6 ? `${(n / 1e6).toFixed(1)} M` : n >= 1e4 ? `${Math.round(n / 1e3)} k` : String(n));

function writeHeader(scene) {
  byId("title").textContent = scene.title;
  const shown = scene.frames.length, { frame_count: all, times_s: times } = scene;
  const seconds = times[shown - 1] - times[0];
  const facts = [
    `${shown === all ? all : `${shown} of ${all}`} frame${all === 1 ? "" : "s"}` + (seconds > 0 ? ` · ${seconds.toFixed(1)} s` : ""),
    `focal ${Math.round(scene.focal)} px · ${Math.round(scene.fov_deg)}°`,
    `${scene.width} × ${scene.height}`,
  ];
  for (const fact of facts) byId("facts").append(element("span", fact));
  const scale = scene.metric ? `metric (${scene.metric_source})` : "scale unknown";
  byId("facts").append(element("span", scale, scene.metric ? "" : "warn"));
  writeStory(scene);
}

function writeStory(scene) {
  byId("story").hidden = !scene.notes.length && !scene.history.length;
  for (const note of scene.notes) byId("story-body").append(element("p", note));
  const list = element("ol", "");
  for (const step of scene.history) {
    const item = element("li", step.name);
    const told = (pairs) => Object.entries(pairs).map(([key, value]) => `${key} ${value}`).join(", ");
    for (const words of [told(step.settings), told(step.outcome)])
      if (words) item.append(element("br", ""), element("code", words));
    list.append(item);
  }
  byId("story-body").append(list);
}

function writeCounts(scene, unit) {
  const { arrays } = scene, tracks = arrays.trail_position ? arrays.trail_position.shape[1] : 0;
  const counts = { static: arrays.static_radius.length, moving: arrays.moving_radius.length, trails: tracks };
  for (const [layer, count] of Object.entries(counts)) {
    byId(`count-${layer}`).textContent = counted(count);
    document.querySelector(`[data-layer=${layer}]`).closest("label").classList.toggle("off", !count);
  }
  byId("trail-options").hidden = !tracks;
  byId("fast").textContent = `${rounded(scene.fast)}${unit}/s`;
  document.querySelector("[data-layer=masks]").closest("label").classList.toggle("off", !scene.masks.some(Boolean));
}

// Green where a frame can be trusted, red where not.
function paintTrust(scene) {
  const canvas = byId("trust");
  canvas.hidden = !scene.trust;
  if (!scene.trust) return;
  canvas.width = scene.trust.length;
  const pen = canvas.getContext("2d");
  scene.trust.forEach((trust, i) => {
    pen.fillStyle = `hsl(${8 + 142 * trust} ${70 - 15 * trust}% ${52 - 8 * trust}%)`;
    pen.fillRect(i, 0, 1, 6);
  });
}

function showPicture(scene, state) {
  byId("picture").hidden = !state.shown.picture;
  byId("picture-image").src = scene.pictures[state.frame];
  const mask = state.shown.masks && scene.masks[state.frame];
  byId("picture-mask").hidden = !mask;
  if (mask) byId("picture-mask").src = mask;
}

function showClock(scene, frame) {
  const trust = scene.trust ? ` · trust ${scene.trust[frame].toFixed(2)}` : "";
  const seconds = (scene.times_s[frame] - scene.times_s[0]).toFixed(2);
  byId("clock").innerHTML = `<b>${scene.frames[frame]}</b> / ${scene.frame_count - 1} · ${seconds} s<i>${trust}</i>`;
}
