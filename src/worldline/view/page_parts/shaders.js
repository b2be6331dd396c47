// Four programs: points into a buffer, the buffer onto the screen with edge shading, wide lines, and trails.

const POINT_SHADERS = [
  `#version 300 es
  layout(location = 0) in vec3 a_position;
  layout(location = 1) in vec3 a_colour;
  layout(location = 2) in float a_radius;
  uniform mat4 clip_from_world;
  uniform vec3 low, size;
  uniform float radius_px, smallest, octaves, most_px;
  out vec3 colour;
  void main() {
    gl_Position = clip_from_world * vec4(low + size * a_position, 1.0);
    float radius = smallest * exp2(a_radius * octaves);
    gl_PointSize = clamp(2.0 * radius * radius_px / gl_Position.w, 1.5, most_px);
    colour = a_colour;
  }`,
  `#version 300 es
  precision mediump float;
  in vec3 colour;
  out vec4 result;
  void main() {
    vec2 from_middle = 2.0 * gl_PointCoord - 1.0;
    if (dot(from_middle, from_middle) > 1.0) discard;
    result = vec4(colour, 1.0);
  }`,
];

// Edge shading: a pixel is darkened by how far its neighbours lie in front of it, on a log scale of depth
// (eye-dome lighting, Boucheny 2009), which gives the cloud its shape.
const SHADING_SHADERS = [
  `#version 300 es
  out vec2 at;
  void main() {
    at = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2);
    gl_Position = vec4(2.0 * at - 1.0, 0.0, 1.0);
  }`,
  `#version 300 es
  precision highp float;
  in vec2 at;
  uniform sampler2D colours;
  uniform highp sampler2D depths;
  uniform vec2 pixel;
  uniform float near, far, strength;
  out vec4 result;
  float log_depth(vec2 where) {
    float d = 2.0 * texture(depths, where).r - 1.0;
    return log2(2.0 * near * far / (far + near - d * (far - near)));
  }
  void main() {
    float depth = texture(depths, at).r;
    if (depth >= 1.0) discard;
    float here = log_depth(at), darker = 0.0;
    for (int i = 0; i < 8; i++) {
      float angle = 0.785398 * float(i);
      darker += min(max(0.0, here - log_depth(at + pixel * vec2(cos(angle), sin(angle)))), 0.16);
    }
    result = vec4(texture(colours, at).rgb * exp(-strength * darker), 1.0);
    gl_FragDepth = depth;
  }`,
];

const WIDEN = `
  vec4 widened(vec4 a, vec4 b, int corner, float width_px, vec2 viewport) {
    float end = float(corner == 1 || corner == 3 || corner == 4), near = 1e-4;
    if (a.w < near && b.w < near) return vec4(0.0, 0.0, 2.0, 1.0);
    if (a.w < near) a = mix(a, b, (near - a.w) / (b.w - a.w));
    if (b.w < near) b = mix(b, a, (near - b.w) / (a.w - b.w));
    vec2 along = (b.xy / b.w - a.xy / a.w) * viewport;
    along = length(along) > 1e-6 ? normalize(along) : vec2(1.0, 0.0);
    float side = (corner == 0 || corner == 1 || corner == 3) ? -1.0 : 1.0;
    vec4 p = end > 0.5 ? b : a;
    vec2 outwards = vec2(-along.y, along.x) * side + along * (end > 0.5 ? 0.5 : -0.5);
    p.xy += outwards * (width_px / viewport) * p.w;
    across = side;
    return p;
  }`;

const LINE_FRAGMENT = `#version 300 es
  precision mediump float;
  in vec4 colour;
  in float across;
  out vec4 result;
  void main() { result = vec4(colour.rgb, colour.a * smoothstep(1.0, 0.55, abs(across))); }`;

const LINE_SHADERS = [
  `#version 300 es
  layout(location = 0) in vec3 from_world;
  layout(location = 1) in vec3 to_world;
  layout(location = 2) in vec4 a_colour;
  layout(location = 3) in float width;
  uniform mat4 clip_from_world;
  uniform vec2 viewport;
  uniform float pixel_ratio;
  out vec4 colour;
  out float across;
  ${WIDEN}
  void main() {
    vec4 a = clip_from_world * vec4(from_world, 1.0), b = clip_from_world * vec4(to_world, 1.0);
    gl_Position = widened(a, b, gl_VertexID, (width + 0.6) * pixel_ratio, viewport);
    colour = a_colour;
  }`,
  LINE_FRAGMENT,
];

// One instance is one track between two frames; positions come from a texture (tracks x frames), w packs seen + speed.
const TRAIL_SHADERS = [
  `#version 300 es
  precision highp float;
  uniform highp sampler2D tracks;
  uniform mat4 clip_from_world;
  uniform vec2 viewport;
  uniform float pixel_ratio;
  uniform int frame, count, ages, by_track;
  out vec4 colour;
  out float across;
  ${WIDEN}
  vec3 speed_colour(float s) {
    vec3 slow = vec3(0.275, 0.431, 1.0), low = vec3(0.157, 0.784, 0.863);
    vec3 high = vec3(0.98, 0.863, 0.353), fast = vec3(1.0, 0.314, 0.235);
    s *= 3.0;
    return s < 1.0 ? mix(slow, low, s) : s < 2.0 ? mix(low, high, s - 1.0) : mix(high, fast, s - 2.0);
  }
  vec3 track_colour(float k) {
    vec3 wheel = abs(fract(k * 0.61803 + vec3(0.0, 0.667, 0.333)) * 6.0 - 3.0) - 1.0;
    return mix(vec3(1.0), clamp(wheel, 0.0, 1.0), 0.65);
  }
  void main() {
    int track = gl_InstanceID % count, age = gl_InstanceID / count, last = frame - age;
    across = 0.0;
    colour = vec4(0.0);
    gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
    if (last < 1) return;
    vec4 now = texelFetch(tracks, ivec2(track, last), 0), before = texelFetch(tracks, ivec2(track, last - 1), 0);
    if (now.w < 0.0 || before.w < 0.0) return;
    vec4 a = clip_from_world * vec4(before.xyz, 1.0), b = clip_from_world * vec4(now.xyz, 1.0);
    float fade = 1.0 - float(age) / float(ages);
    gl_Position = widened(a, b, gl_VertexID, (1.0 + 1.3 * fade) * pixel_ratio, viewport);
    float seen = now.w >= 2.0 ? 1.0 : 0.3;
    vec3 hue = by_track == 1 ? track_colour(float(track)) : speed_colour(fract(now.w * 0.5) * 2.0);
    colour = vec4(hue, (0.12 + 0.83 * fade * fade) * seen);
  }`,
  LINE_FRAGMENT,
];
