// Vectors are arrays of 3; matrices are 16 numbers by columns, as WebGL wants them.
// Cameras are OpenCV's: x right, y down, z forward. Only `clipFromCam` turns y up.

const add = (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const scaled = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
const length = (a) => Math.hypot(...a);
const unit = (a) => scaled(a, 1 / Math.max(length(a), 1e-12));

function multiply(a, b) {
  const out = new Float32Array(16);
  for (let column = 0; column < 4; column++)
    for (let row = 0; row < 4; row++)
      for (let k = 0; k < 4; k++) out[4 * column + row] += a[4 * k + row] * b[4 * column + k];
  return out;
}

// From the camera's axes in the world and its centre.
function camFromWorld(x, y, z, eye) {
  return new Float32Array([
    x[0], y[0], z[0], 0, x[1], y[1], z[1], 0, x[2], y[2], z[2], 0, -dot(x, eye), -dot(y, eye), -dot(z, eye), 1,
  ]);
}

// Intrinsics in pixels of a viewport that is `width` x `height` with v down.
function clipFromCam(fx, fy, cx, cy, width, height, near, far) {
  return new Float32Array([
    (2 * fx) / width, 0, 0, 0, 0, (-2 * fy) / height, 0, 0,
    (2 * cx) / width - 1, 1 - (2 * cy) / height, (far + near) / (far - near), 1, 0, 0, (-2 * far * near) / (far - near), 0,
  ]);
}

// One row-major 3x4 world_from_cam: its axes in the world, and its centre.
function cameraAxes(pose) {
  const column = (k) => [pose[k], pose[4 + k], pose[8 + k]];
  return { x: column(0), y: column(1), z: column(2), eye: column(3) };
}
