// Detection in the browser: an image is fitted into the network's input, and the boxes are drawn over it.
"use strict";

const element = (id) => document.getElementById(id);
const say = (text) => { element("message").textContent = text; };
let session, about, picture;

// The input's size: the file's, or the one of training for a file of any size.
const inputSize = () => about.input_res ?? about.input_res_train;

// {data, scale}: the image centered in the input on black, as float32 [1, 3, H, W] or uint8 [1, H, W, 3] in the order
// blue, green, red; scale, the image's pixels per input pixel.
function fit(image, [width, height]) {
  const scale = Math.max(image.width / width, image.height / height);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, width, height);
  const [w, h] = [image.width / scale, image.height / scale];
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = width * height;
  const bytes = about.input_type === "uint8";
  const data = bytes ? new Uint8Array(3 * pixels) : new Float32Array(3 * pixels);
  for (let pixel = 0; pixel < pixels; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = rgba[4 * pixel + 2 - channel];
      if (bytes) data[3 * pixel + channel] = value;
      else data[channel * pixels + pixel] = (value / 255 - about.mean[channel]) / about.std[channel];
    }
  }
  const shape = bytes ? [1, height, width, 3] : [1, 3, height, width];
  return { tensor: new ort.Tensor(bytes ? "uint8" : "float32", data, shape), scale };
}

// The detections of an image with at least a score: [{box: [x1, y1, x2, y2] in image pixels, score, name}].
async function detect(image, least) {
  const [width, height] = inputSize();
  const { tensor, scale } = fit(image, [width, height]);
  const { detections } = await session.run({ image: tensor });
  const [, count, columns] = detections.dims;
  const found = [];
  for (let row = 0; row < count; row++) {
    const values = detections.data.subarray(row * columns, (row + 1) * columns);
    if (values[4] < least) continue;
    const corner = (value, side, length) => (value * about.down_ratio - side / 2) * scale + length / 2;
    const box = [0, 1, 2, 3].map((i) => (i % 2 ? corner(values[i], height, image.height)
                                               : corner(values[i], width, image.width)));
    found.push({ box, score: values[4], name: about.classes[values[5]] });
  }
  return found;
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
  const by = (ending) => [...files].find((file) => file.name.endsWith(ending));
  const [network, side] = [by(".onnx"), by(".json")];
  if (!network || !side) throw new Error("choose both files, .onnx and .onnx.json");
  say("loading ...");
  about = JSON.parse(await side.text());
  session = await ort.InferenceSession.create(new Uint8Array(await network.arrayBuffer()),
                                              { executionProviders: ["wasm"] });
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
  picture = await createImageBitmap(event.target.files[0]);
  await show();
}));
