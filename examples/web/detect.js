// Detection in the browser: the network runs on the image's pixels, and the boxes are drawn over the image.
"use strict";

const element = (id) => document.getElementById(id);
const say = (text) => { element("message").textContent = text; };
let session, about, picture;

// The detections of an image with at least a score: [{name, score, box: [x1, y1, x2, y2] in image pixels}].
async function detect(image, least) {
  const { makeInput, findBoxes } = await import("./centernet.mjs");
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { type, data, dims } = makeInput(about, context.getImageData(0, 0, image.width, image.height));
  const { detections } = await session.run({ image: new ort.Tensor(type, data, dims) });
  return findBoxes(about, detections, image, least);
}

// Draw an image, a small one enlarged, with the boxes, names and scores of detections.
function draw(image, found) {
  const canvas = element("result");
  const zoom = Math.max(1, Math.floor(640 / Math.max(image.width, image.height)));
  [canvas.width, canvas.height] = [zoom * image.width, zoom * image.height];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(2, Math.round(Math.max(canvas.width, canvas.height) / 320));
  context.lineWidth = unit;
  context.font = `${6 * unit}px system-ui, sans-serif`;
  context.textBaseline = "bottom";
  for (const { box, score, name } of found) {
    const [x1, y1, x2, y2] = box.map((value) => value * zoom);
    const color = `hsl(${(about.classes.indexOf(name) * 137) % 360} 90% 40%)`;
    const text = `${name} ${score.toFixed(2)}`;
    context.strokeStyle = context.fillStyle = color;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const top = Math.max(y1, 7 * unit);
    context.fillRect(x1, top - 7 * unit, context.measureText(text).width + 2 * unit, 7 * unit);
    context.fillStyle = "white";
    context.fillText(text, x1 + unit, top);
  }
}

async function load(files) {
  const { check } = await import("./centernet.mjs");
  const by = (ending) => [...files].find((file) => file.name.endsWith(ending));
  const [network, side] = [by(".onnx"), by(".json")];
  if (!network || !side) throw new Error("choose both files, .onnx and .onnx.json");
  say("loading ...");
  const content = JSON.parse(await side.text());
  const loaded = await ort.InferenceSession.create(new Uint8Array(await network.arrayBuffer()),
                                                   { executionProviders: ["wasm"] });
  check(content, loaded.outputNames);
  [about, session] = [content, loaded]; // together: a failure leaves the earlier model
  element("image").disabled = false;
  say(`${about.classes.length} classes; choose an image.`);
}

async function show() {
  if (!picture) return;
  say("detecting ...");
  const start = performance.now();
  const found = await detect(picture, Number(element("score").value));
  draw(picture, found);
  say(`${found.length} detections in ${(performance.now() - start).toFixed(0)} ms`);
}

const reported = (action) => action().catch((error) => say(`error: ${error.message}`));
element("model").addEventListener("change", (event) => reported(() => load(event.target.files)));
element("score").addEventListener("change", () => reported(show));
element("image").addEventListener("change", (event) => reported(async () => {
  if (!event.target.files.length) return; // the dialog was cancelled
  picture = await createImageBitmap(event.target.files[0]);
  await show();
}));
