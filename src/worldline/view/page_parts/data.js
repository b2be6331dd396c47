"use strict";

// The scene: the manifest as it is, and `arrays` as typed arrays over the inflated block.

const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

async function readScene() {
  const scene = JSON.parse(document.getElementById("manifest").textContent);
  const block = document.getElementById("block");
  const bytes = Uint8Array.from(atob(block.textContent), (letter) => letter.charCodeAt(0));
  block.remove();
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(inflated).arrayBuffer();
  for (const [name, at] of Object.entries(scene.arrays)) {
    const count = at.shape.reduce((a, b) => a * b, 1);
    scene.arrays[name] = new TYPES[at.type](buffer, at.offset, count);
    scene.arrays[name].shape = at.shape;
  }
  return scene;
}
