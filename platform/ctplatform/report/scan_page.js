"use strict";
const meta = JSON.parse(document.getElementById("meta").textContent);
const [nx, ny, nz] = meta.size;
const SCALE = 3; // pixels of a canvas a voxel
const NEAR_MM = 8; // locations closer to a slice are drawn on it
const LUNGS = { 50: "#e69f00", 100: "#56b4e9" };
const SIDES = { 50: "right lung", 100: "left lung" };
// Axis of the slices, axis to the right, axis downwards; the head is up.
const PLANES = {
  axial: { fixed: 2, across: 0, down: 1, flip: false },
  coronal: { fixed: 1, across: 0, down: 2, flip: true },
  sagittal: { fixed: 0, across: 1, down: 2, flip: true },
};
const at = [nx >> 1, ny >> 1, nz >> 1]; // the cross-hair, in voxels
const byId = (name) => document.getElementById(name);
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const inVoxels = (mm) => mm.map((value, axis) => (value - meta.origin[axis]) / meta.spacing);
const centres = meta.centres.map(inVoxels);
const labelColours = new Map(meta.labels.map((label) => [label.value, rgb(label.colour)]));
const voxel = (x, y, z) => x + nx * (y + ny * z);
const data = {};

async function unpacked(name) {
  const element = byId(`voxels-${name}`);
  if (!element) return null;
  const packed = Uint8Array.from(atob(element.textContent), (sign) => sign.charCodeAt(0));
  element.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

const shown = (name) => Boolean(byId(`show-${name}`)?.checked);

function draw(name) {
  const { fixed, across, down, flip } = PLANES[name];
  const width = meta.size[across];
  const height = meta.size[down];
  const [low, high] = byId("window").value.split(",").map(Number);
  const slice = new ImageData(width, height);
  const edges = new Map([[50, new Path2D()], [100, new Path2D()]]);
  const strides = [1, nx, nx * ny];
  const base = at[fixed] * strides[fixed];
  const row = (v) => (flip ? height - 1 - v : v);
  for (let v = 0; v < height; v += 1) {
    for (let u = 0; u < width; u += 1) {
      const i = base + u * strides[across] + v * strides[down];
      const pixel = 4 * (u + width * row(v));
      const grey = Math.max(0, Math.min(255, (255 * (data.ct[i] - low)) / (high - low)));
      const paint = shown("labels") && labelColours.get(data.labels[i]);
      for (let c = 0; c < 3; c += 1) slice.data[pixel + c] = paint ? 0.5 * grey + 0.5 * paint[c] : grey;
      slice.data[pixel + 3] = 255;
      const side = data.mask[i];
      if (side && edges.has(side)) {
        const y = row(v) * SCALE;
        const x = u * SCALE;
        const path = edges.get(side);
        const other = (du, dv) => {
          const [a, b] = [u + du, v + dv];
          return a < 0 || b < 0 || a >= width || b >= height || data.mask[i + du * strides[across] + dv * strides[down]] !== side;
        };
        const line = (x0, y0, x1, y1) => { path.moveTo(x0, y0); path.lineTo(x1, y1); };
        if (other(-1, 0)) line(x, y, x, y + SCALE);
        if (other(1, 0)) line(x + SCALE, y, x + SCALE, y + SCALE);
        if (other(0, flip ? 1 : -1)) line(x, y, x + SCALE, y);
        if (other(0, flip ? -1 : 1)) line(x, y + SCALE, x + SCALE, y + SCALE);
      }
    }
  }
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(slice, 0, 0);
  const canvas = byId(name);
  canvas.width = width * SCALE;
  canvas.height = height * SCALE;
  const context = canvas.getContext("2d");
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const place = (point) => [(point[across] + 0.5) * SCALE, (flip ? height - point[down] - 0.5 : point[down] + 0.5) * SCALE];
  if (shown("mask")) {
    context.lineWidth = 1.5;
    edges.forEach((path, side) => { context.strokeStyle = LUNGS[side]; context.stroke(path); });
  }
  if (shown("locations")) {
    const nearest = nearestLocation();
    centres.forEach((centre, number) => {
      if (Math.abs(centre[fixed] - at[fixed]) * meta.spacing > NEAR_MM) return;
      const [x, y] = place(centre);
      context.fillStyle = number === nearest ? "#ffffff" : "#f0e442";
      context.beginPath();
      context.arc(x, y, number === nearest ? 4 : 2.5, 0, 2 * Math.PI);
      context.fill();
      if (number === nearest) {
        const half = (SCALE * meta.patch) / meta.spacing / 2;
        context.strokeStyle = "#ffffff";
        context.lineWidth = 1;
        context.strokeRect(x - half, y - half, 2 * half, 2 * half);
      }
    });
  }
  const [x, y] = place(at);
  context.strokeStyle = "rgba(255, 255, 255, 0.45)";
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(x, 0); context.lineTo(x, canvas.height);
  context.moveTo(0, y); context.lineTo(canvas.width, y);
  context.stroke();
}

function nearestLocation() {
  let best = -1;
  let least = Infinity;
  centres.forEach((centre, number) => {
    const distance = centre.reduce((sum, value, axis) => sum + (value - at[axis]) ** 2, 0);
    if (distance < least) { least = distance; best = number; }
  });
  return best;
}

function show() {
  Object.keys(PLANES).forEach(draw);
  Object.entries(PLANES).forEach(([name, { fixed }]) => { byId(`slice-${name}`).value = at[fixed]; });
  const i = voxel(...at);
  const mm = at.map((value, axis) => (meta.origin[axis] + value * meta.spacing).toFixed(1)).join(", ");
  const parts = [`${mm} mm (left, posterior, superior)`, `${data.ct[i]} HU`];
  if (SIDES[data.mask[i]]) parts.push(SIDES[data.mask[i]]);
  const label = meta.labels.find((each) => data.labels && each.value === data.labels[i]);
  if (label) parts.push(label.name);
  if (centres.length) parts.push(`nearest location ${nearestLocation()}`);
  byId("readout").textContent = parts.join(" · ");
}

function move(axis, value) {
  at[axis] = Math.max(0, Math.min(meta.size[axis] - 1, Math.round(value)));
}

async function start() {
  data.ct = new Int16Array(await unpacked("ct"));
  data.mask = new Uint8Array(await unpacked("mask"));
  const labels = await unpacked("labels");
  data.labels = labels && new Uint8Array(labels);
  Object.entries(PLANES).forEach(([name, { fixed, across, down, flip }]) => {
    const slider = byId(`slice-${name}`);
    slider.max = meta.size[fixed] - 1;
    slider.addEventListener("input", () => { move(fixed, Number(slider.value)); show(); });
    const canvas = byId(name);
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const u = ((event.clientX - box.left) / box.width) * meta.size[across] - 0.5;
      const v = ((event.clientY - box.top) / box.height) * meta.size[down] - 0.5;
      move(across, u);
      move(down, flip ? meta.size[down] - 1 - v : v);
      show();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      move(fixed, at[fixed] + Math.sign(event.deltaY));
      show();
    }, { passive: false });
  });
  document.querySelectorAll(".controls select, .controls input").forEach((control) => control.addEventListener("change", show));
  show();
}

start().catch((error) => { byId("readout").textContent = `The page cannot show the scan: ${error}. Use a browser of 2023 or later.`; });
