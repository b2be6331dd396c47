// Draws one frame of the scene: points with edge shading, then lines, then trails.

function program(gl, [vertex, fragment]) {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  const at = {};
  for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(made, i);
    at[name] = gl.getUniformLocation(made, name);
  }
  return { made, at };
}

function attribute(gl, index, data, size, type, { normalized = false, stride = 0, offset = 0, divisor = 0 } = {}) {
  gl.bindBuffer(gl.ARRAY_BUFFER, data);
  gl.enableVertexAttribArray(index);
  gl.vertexAttribPointer(index, size, type, normalized, stride, offset);
  gl.vertexAttribDivisor(index, divisor);
}

function filled(gl, data) {
  const buffer = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  return buffer;
}

function cloudBuffers(gl, position, colour, radius) {
  const vertexArray = gl.createVertexArray();
  gl.bindVertexArray(vertexArray);
  attribute(gl, 0, filled(gl, position), 3, gl.UNSIGNED_SHORT, { normalized: true });
  attribute(gl, 1, filled(gl, colour), 3, gl.UNSIGNED_BYTE, { normalized: true });
  attribute(gl, 2, filled(gl, radius), 1, gl.UNSIGNED_BYTE);
  return { vertexArray, count: radius.length };
}

// Lines as instances of (from, to, colour, width): 11 floats each.
const LINE_FLOATS = 11;

function lineBuffers(gl) {
  const vertexArray = gl.createVertexArray();
  gl.bindVertexArray(vertexArray);
  const buffer = gl.createBuffer();
  const shared = { stride: 4 * LINE_FLOATS, divisor: 1 };
  attribute(gl, 0, buffer, 3, gl.FLOAT, shared);
  attribute(gl, 1, buffer, 3, gl.FLOAT, { ...shared, offset: 12 });
  attribute(gl, 2, buffer, 4, gl.FLOAT, { ...shared, offset: 24 });
  attribute(gl, 3, buffer, 1, gl.FLOAT, { ...shared, offset: 40 });
  return {
    vertexArray,
    count: 0,
    fill(segments) {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(segments.flat()), gl.DYNAMIC_DRAW);
      this.count = segments.length;
    },
  };
}

// Positions of the tracks as a texture: one row per frame; w < 0 missing, w >= 2 seen, the rest is speed.
function trailTexture(gl, scene) {
  const { trail_position: position, trail_speed: speed, trail_state: state } = scene.arrays;
  if (!position) return null;
  const [frames, count] = position.shape;
  const texels = new Float32Array(4 * frames * count);
  for (let i = 0; i < frames * count; i++) {
    for (let k = 0; k < 3; k++) texels[4 * i + k] = scene.bounds[0][k] + (position[3 * i + k] / 65535) * scene.size[k];
    texels[4 * i + 3] = state[i] === 0 ? -1 : speed[i] / 255 + (state[i] === 2 ? 2 : 0);
  }
  const texture = plainTexture(gl);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, count, frames, 0, gl.RGBA, gl.FLOAT, texels);
  return { texture, count };
}

function plainTexture(gl) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
  for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
  return texture;
}

// An off-screen picture with depth, as large as the canvas.
function offScreen(gl) {
  const buffer = gl.createFramebuffer();
  const target = { buffer, width: 0, height: 0, colours: null, depths: null };
  target.fit = (width, height) => {
    if (target.width === width && target.height === height) return;
    gl.deleteTexture(target.colours);
    gl.deleteTexture(target.depths);
    target.colours = plainTexture(gl);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    target.depths = plainTexture(gl);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.DEPTH_COMPONENT24, width, height, 0, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT, null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, target.colours, 0);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, target.depths, 0);
    Object.assign(target, { width, height });
  };
  return target;
}

function makeRenderer(canvas, scene) {
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, preserveDrawingBuffer: true });
  if (!gl) throw new Error("This browser has no WebGL 2, which the view needs; try a current Firefox, Chrome or Safari.");
  const points = program(gl, POINT_SHADERS), shading = program(gl, SHADING_SHADERS);
  const lines = program(gl, LINE_SHADERS), trails = program(gl, TRAIL_SHADERS);
  const { arrays } = scene;
  const clouds = {
    static: cloudBuffers(gl, arrays.static_position, arrays.static_colour, arrays.static_radius),
    moving: cloudBuffers(gl, arrays.moving_position, arrays.moving_colour, arrays.moving_radius),
  };
  const tracks = trailTexture(gl, scene), target = offScreen(gl), empty = gl.createVertexArray();
  const fixed = lineBuffers(gl), current = lineBuffers(gl);

  function drawPoints(view, state) {
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.buffer);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(points.made);
    gl.uniformMatrix4fv(points.at.clip_from_world, false, view.clipFromWorld);
    gl.uniform3fv(points.at.low, scene.bounds[0]);
    gl.uniform3fv(points.at.size, scene.size);
    gl.uniform1f(points.at.smallest, scene.smallest_radius);
    gl.uniform1f(points.at.octaves, 1 / scene.radius_steps_per_octave);
    gl.uniform1f(points.at.radius_px, view.focalPx * state.pointSize);
    gl.uniform1f(points.at.most_px, 28 * view.pixelRatio * state.pointSize);
    if (state.shown.static) {
      gl.bindVertexArray(clouds.static.vertexArray);
      gl.drawArrays(gl.POINTS, 0, clouds.static.count);
    }
    if (state.shown.moving) {
      const [first, end] = arrays.moving_first.slice(state.frame, state.frame + 2);
      gl.bindVertexArray(clouds.moving.vertexArray);
      gl.drawArrays(gl.POINTS, first, end - first);
    }
  }

  function drawShaded(view, state) {
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.clearColor(...state.background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(shading.made);
    gl.bindVertexArray(empty);
    for (const [unit, texture] of [[0, target.colours], [1, target.depths]]) {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
    }
    gl.uniform1i(shading.at.colours, 0);
    gl.uniform1i(shading.at.depths, 1);
    gl.uniform2f(shading.at.pixel, (1.4 * view.pixelRatio) / canvas.width, (1.4 * view.pixelRatio) / canvas.height);
    gl.uniform1f(shading.at.near, view.near);
    gl.uniform1f(shading.at.far, view.far);
    gl.uniform1f(shading.at.strength, state.shown.shading ? 1.1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  function strokes(made, view) {
    gl.useProgram(made.made);
    gl.uniformMatrix4fv(made.at.clip_from_world, false, view.clipFromWorld);
    gl.uniform2f(made.at.viewport, canvas.width, canvas.height);
    gl.uniform1f(made.at.pixel_ratio, view.pixelRatio);
  }

  function drawLines(view) {
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    gl.depthMask(false);
    strokes(lines, view);
    for (const set of [fixed, current]) {
      gl.bindVertexArray(set.vertexArray);
      if (set.count) gl.drawArraysInstanced(gl.TRIANGLES, 0, 6, set.count);
    }
  }

  function drawTrails(view, state) {
    if (!tracks || !state.shown.trails) return;
    strokes(trails, view);
    gl.bindVertexArray(empty);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, tracks.texture);
    gl.uniform1i(trails.at.tracks, 0);
    gl.uniform1i(trails.at.frame, state.frame);
    gl.uniform1i(trails.at.count, tracks.count);
    gl.uniform1i(trails.at.ages, state.trailLength);
    gl.uniform1i(trails.at.by_track, state.trailColour === "track" ? 1 : 0);
    gl.drawArraysInstanced(gl.TRIANGLES, 0, 6, tracks.count * state.trailLength);
  }

  return {
    fixed,
    current,
    draw(view, state) {
      target.fit(canvas.width, canvas.height);
      gl.viewport(0, 0, canvas.width, canvas.height);
      drawPoints(view, state);
      drawShaded(view, state);
      drawLines(view);
      drawTrails(view, state);
      gl.depthMask(true);
    },
  };
}
