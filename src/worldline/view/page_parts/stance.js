// Where the viewer stands: free (orbit, pan, zoom around a target) or looking through the current camera.

function makeStance(scene, canvas, changed) {
  const up = unit(scene.stance.up);
  const east = unit(cross(Math.abs(up[0]) < 0.9 ? [1, 0, 0] : [0, 0, 1], up)), north = cross(up, east);
  const free = { target: [0, 0, 0], distance: 1, yaw: 0, pitch: 0 };
  const stance = { through: false, reset, look, view, standAt, orbit, pan, zoom };

  function standAt(eye, target) {
    const ahead = add(target, eye, -1), way = unit(ahead);
    free.target = target;
    free.distance = length(ahead);
    free.pitch = Math.asin(Math.max(-1, Math.min(1, dot(way, up))));
    free.yaw = Math.atan2(dot(way, north), dot(way, east));
  }

  function reset() {
    stance.through = false;
    standAt(scene.stance.eye, scene.stance.target);
    changed();
  }

  // Looking through a camera and then dragging goes on from where that camera is.
  function look(frame, through) {
    if (stance.through && !through) {
      const { z, eye } = axesOf(frame);
      standAt(eye, add(eye, z, scene.median_depth));
    }
    stance.through = through;
    changed();
  }

  function axesOf(frame) {
    const axes = cameraAxes(scene.world_from_cam[frame]);
    return { ...axes, z: cross(axes.x, axes.y) };
  }

  function freeAxes() {
    const flat = add(scaled(east, Math.cos(free.yaw)), north, Math.sin(free.yaw));
    const z = add(scaled(flat, Math.cos(free.pitch)), up, Math.sin(free.pitch));
    const x = unit(cross(scaled(up, -1), z));
    return { x, y: cross(z, x), z, eye: add(free.target, z, -free.distance) };
  }

  function view(frame, width, height, pixelRatio) {
    const axes = stance.through ? axesOf(frame) : freeAxes();
    const reach = length(scene.size) + length(add(axes.eye, scene.middle, -1));
    const near = reach * 2e-4, far = reach * 1.2;
    const { fx, fy, cx, cy } = stance.through ? fitted(frame, width, height) : ownLens(width, height);
    const camera = camFromWorld(axes.x, axes.y, axes.z, axes.eye);
    const clipFromWorld = multiply(clipFromCam(fx, fy, cx, cy, width, height, near, far), camera);
    return { clipFromWorld, focalPx: fy, near, far, pixelRatio };
  }

  // The angle of view is that of the smaller side. In a wide window the middle moves left, beside the panel.
  function ownLens(width, height) {
    const focal = Math.min(width, height) / 2 / Math.tan((scene.stance.fov_deg * Math.PI) / 360);
    const aside = width > 1.3 * height ? 0.07 * width : 0;
    return { fx: focal, fy: focal, cx: width / 2 - aside, cy: height / 2 };
  }

  // The frame's own lens, scaled to fit whole into the window, in its middle.
  function fitted(frame, width, height) {
    const [fx, fy, cx, cy] = scene.intrinsics[frame];
    const scale = Math.min(width / scene.width, height / scene.height);
    const left = (width - scale * scene.width) / 2, top = (height - scale * scene.height) / 2;
    return { fx: fx * scale, fy: fy * scale, cx: cx * scale + left, cy: cy * scale + top };
  }

  function orbit(dx, dy) {
    free.yaw -= dx * 0.005;
    free.pitch = Math.max(-1.55, Math.min(1.55, free.pitch - dy * 0.005));
    changed();
  }

  function pan(dx, dy) {
    const { x, y } = freeAxes(), step = (free.distance * 0.83) / Math.min(canvas.clientWidth, canvas.clientHeight);
    free.target = add(add(free.target, x, -dx * step), y, -dy * step);
    changed();
  }

  function zoom(factor) {
    free.distance = Math.max(1e-3, Math.min(50, (free.distance * factor) / length(scene.size))) * length(scene.size);
    changed();
  }

  reset();
  return stance;
}

// One finger or the left button turns, two fingers or another button pan, pinch or wheel zooms.
function listenToHands(canvas, stance, leave) {
  const fingers = new Map();
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY], dx = now[0] - before[0], dy = now[1] - before[1];
    if (!dx && !dy) return;
    leave();
    if (fingers.size === 2) pinch(event.pointerId, before, now);
    else if (event.shiftKey || event.buttons > 1) stance.pan(dx, dy);
    else stance.orbit(dx, dy);
    fingers.set(event.pointerId, now);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    leave();
    stance.zoom(Math.exp(Math.max(-200, Math.min(200, event.deltaY)) * 0.0015));
  }, { passive: false });

  function pinch(moved, before, now) {
    const [, other] = [...fingers].find(([id]) => id !== moved);
    const apart = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]);
    stance.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    stance.zoom(apart(before) / Math.max(apart(now), 1));
  }
}
