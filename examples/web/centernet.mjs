// What surrounds the network in a program: its input from an image, and the boxes in the image from its output.
//
// The page and examples/node share it. about is the content of the file's .json; an image is {data, width, height},
// its bytes row by row, each pixel red, green, blue and perhaps alpha.

// The input's size [width, height]: the file's, or the one of training for a file of any size.
const inputSize = (about) => about.input_res ?? about.input_res_train;

// Throw an Error unless a file with this .json and these outputs detects objects.
export function check(about, outputs) {
  const needed = ["classes", "input_type", "mean", "std", "down_ratio", "input_res_train"];
  const missing = needed.filter((name) => about?.[name] === undefined);
  if (missing.length) throw new Error(`the .json has no ${missing[0]}; use the one that export.py wrote with the file`);
  if (!outputs.includes("detections")) {
    throw new Error(`the file's outputs are ${outputs.join(", ")}; export it with --export_config.onnx_decode true`);
  }
}

// The image's pixels per input pixel.
const scaleOf = (image, [width, height]) => Math.max(image.width / width, image.height / height);

// Where the pixels of one side of the input lie on a side of the image: the places of the two nearest of its pixels,
// step apart, and their weights. The image is centered; what is outside is black.
function samples(size, length, scale, step) {
  return Array.from({ length: size }, (_, position) => {
    const point = (position - size / 2) * scale + length / 2;
    const pixel = Math.floor(point);
    const inside = (index) => index >= 0 && index < length;
    return { first: inside(pixel) ? pixel * step : 0, near: inside(pixel) ? 1 - (point - pixel) : 0,
             second: inside(pixel + 1) ? (pixel + 1) * step : 0, far: inside(pixel + 1) ? point - pixel : 0 };
  });
}

// The image fitted into the input, bilinear as in training: bytes [height, width, 3] in the order blue, green, red.
function fit(image, [width, height]) {
  const { data } = image;
  const channels = data.length / (image.width * image.height);
  const scale = scaleOf(image, [width, height]);
  const columns = samples(width, image.width, scale, channels);
  const bytes = new Uint8ClampedArray(3 * width * height); // it rounds
  let out = 0;
  for (const y of samples(height, image.height, scale, channels * image.width)) {
    for (const x of columns) {
      for (let color = 2; color >= 0; color--) {
        const above = x.near * data[y.first + x.first + color] + x.far * data[y.first + x.second + color];
        const below = x.near * data[y.second + x.first + color] + x.far * data[y.second + x.second + color];
        bytes[out++] = y.near * above + y.far * below;
      }
    }
  }
  return bytes;
}

// {type, data, dims} of the network's input for an image: float32 [N, 3, H, W], normalized, or uint8 [N, H, W, 3]. A
// file of a fixed batch takes that many; the others stay black.
export function makeInput(about, image) {
  const [width, height] = inputSize(about);
  const [count, pixels] = [about.batch_size ?? 1, width * height];
  const bytes = fit(image, [width, height]);
  if (about.input_type === "uint8") {
    const data = new Uint8Array(3 * pixels * count);
    data.set(bytes);
    return { type: "uint8", data, dims: [count, height, width, 3] };
  }
  const data = new Float32Array(3 * pixels * count);
  for (let channel = 0; channel < 3; channel++) {
    for (let pixel = 0; pixel < pixels; pixel++) {
      const value = bytes[3 * pixel + channel] / 255;
      data[channel * pixels + pixel] = (value - about.mean[channel]) / about.std[channel];
    }
  }
  return { type: "float32", data, dims: [count, 3, height, width] };
}

// The detections of an image with at least a score, best first: [{name, score, box: [x1, y1, x2, y2] in image pixels}].
export function findBoxes(about, { data, dims }, image, least) {
  const [width, height] = inputSize(about);
  const scale = scaleOf(image, [width, height]);
  const corner = (value, side, length) => (value * about.down_ratio - side / 2) * scale + length / 2;
  const [, count, columns] = dims;
  const found = [];
  for (let row = 0; row < count; row++) {
    const [x1, y1, x2, y2, score, label] = data.subarray(row * columns, (row + 1) * columns);
    if (score < least) continue;
    const box = [corner(x1, width, image.width), corner(y1, height, image.height),
                 corner(x2, width, image.width), corner(y2, height, image.height)];
    found.push({ name: about.classes[label], score, box });
  }
  return found;
}
