"use strict";
const meta = JSON.parse(document.getElementById("meta").textContent);
const SIDES = { 50: "right lung", 100: "left lung" };
const OPACITY = { mask: 0.3, locations: 0.9, labels: 0.5 };
const byId = (name) => document.getElementById(name);

function colours(entries) {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
  entries.forEach(({ value, name, colour }) => {
    const [red, green, blue] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    table.I.push(value); table.R.push(red); table.G.push(green); table.B.push(blue);
    table.A.push(255); table.labels.push(name);
  });
  return table;
}

const TABLES = {
  mask: colours([{ value: 50, name: SIDES[50], colour: "#e69f00" }, { value: 100, name: SIDES[100], colour: "#56b4e9" }]),
  locations: colours([{ value: 1, name: "location", colour: "#f0e442" }]),
  labels: colours(meta.labels),
};

// NiiVue's coordinates grow to the right and to the front, DICOM's to the left and to the back.
const lps = ([x, y, z]) => [-x, -y, z];

function nearestLocation(mm) {
  let best = -1;
  let least = Infinity;
  meta.centres.forEach((centre, number) => {
    const distance = centre.reduce((sum, value, axis) => sum + (value - mm[axis]) ** 2, 0);
    if (distance < least) { least = distance; best = number; }
  });
  return best;
}

async function start() {
  if (!document.createElement("canvas").getContext("webgl2")) throw new Error("there is no WebGL2");
  const viewer = new niivue.Niivue({
    isRadiologicalConvention: true,
    backColor: [0, 0, 0, 1],
    crosshairColor: [1, 1, 1, 0.45],
    crosshairWidth: 0.5,
    dragAndDropEnabled: false,
    logLevel: "error",
    loadingText: "",
    multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
  });
  await viewer.attachToCanvas(byId("volume"));
  const [low, high] = byId("window").value.split(",").map(Number);
  for (const name of ["ct", "mask", "labels", "locations"]) {
    const element = byId(`volume-${name}`);
    if (element) {
      const image = await niivue.NVImage.loadFromBase64({
        base64: element.textContent, name: `${name}.nii.gz`, opacity: OPACITY[name] ?? 1,
        ...(name === "ct" ? { colormap: "gray", cal_min: low, cal_max: high } : {}),
      });
      element.remove();
      if (TABLES[name]) image.setColormapLabel(TABLES[name]);
      viewer.addVolume(image);
    }
  }
  const place = (name) => viewer.volumes.findIndex((volume) => volume.name === `${name}.nii.gz`);
  viewer.onLocationChange = (location) => {
    const mm = lps(location.mm);
    const at = (name) => location.values[place(name)]?.value;
    const parts = [`${mm.map((value) => value.toFixed(1)).join(", ")} mm (left, posterior, superior)`, `${Math.round(at("ct"))} HU`];
    if (SIDES[at("mask")]) parts.push(SIDES[at("mask")]);
    const label = meta.labels.find(({ value }) => value === at("labels"));
    if (label) parts.push(label.name);
    if (meta.centres.length) parts.push(`nearest location ${nearestLocation(mm)}`);
    byId("readout").textContent = parts.join(" · ");
  };
  byId("window").addEventListener("change", (event) => {
    [viewer.volumes[0].cal_min, viewer.volumes[0].cal_max] = event.target.value.split(",").map(Number);
    viewer.updateGLVolume();
  });
  const planes = { multiplanar: viewer.sliceTypeMultiplanar, axial: viewer.sliceTypeAxial, coronal: viewer.sliceTypeCoronal, sagittal: viewer.sliceTypeSagittal, render: viewer.sliceTypeRender };
  byId("planes").addEventListener("change", (event) => viewer.setSliceType(planes[event.target.value]));
  Object.entries(OPACITY).forEach(([name, opacity]) => {
    byId(`show-${name}`)?.addEventListener("change", (event) => viewer.setOpacity(place(name), event.target.checked ? opacity : 0));
  });
  viewer.setSliceType(viewer.sliceTypeMultiplanar);
  viewer.createOnLocationChange();
}

start().catch((error) => { byId("readout").textContent = `The page cannot show the scan: ${error.message}. Use a browser with WebGL2, or make the page with --viewer slices.`; });
