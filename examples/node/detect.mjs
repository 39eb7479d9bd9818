// Detection in Node.js: node detect.mjs MODEL.onnx IMAGE [--score 0.3] prints a JSON record for each object found.
import { access, readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import ort from "onnxruntime-node";
import sharp from "sharp";
import { check, findBoxes, makeInput } from "../web/centernet.mjs";

const SILENT = 4; // ONNX Runtime's own lines would come before the sentence about an error

// The result of an action on a file, whose failure becomes a sentence about the file.
async function attempt(path, problem, action) {
  try {
    return await action();
  } catch (error) {
    const [first] = error.message.split(/\p{Cc}/u); // the message may quote the file's bytes
    throw new Error(`${path}: ${problem} (${first})`);
  }
}

// {about, session} of a model: its .json, next to it, and the network.
async function load(path) {
  const side = `${path}.json`;
  await attempt(path, "cannot be read", () => access(path));
  const text = await attempt(side, "cannot be read; export.py writes it with the model", () => readFile(side, "utf8"));
  const about = await attempt(side, "not JSON", () => JSON.parse(text));
  const session = await attempt(path, "not a file that ONNX Runtime can run",
                                () => ort.InferenceSession.create(path, { logSeverityLevel: SILENT }));
  await attempt(path, "not a detector", () => check(about, session.outputNames));
  return { about, session };
}

// The pixels of an image file: upright, and without transparency or a color profile, as in training.
async function read(path) {
  const { data, info } = await attempt(path, "cannot be read as an image", () => (
    sharp(path, { ignoreIcc: true }).autoOrient().removeAlpha().toColourspace("srgb").raw()
      .toBuffer({ resolveWithObject: true })));
  return { data, width: info.width, height: info.height };
}

// The objects in an image with at least a score, best first: [{name, score, box}].
async function detect({ about, session }, image, least) {
  const { type, data, dims } = makeInput(about, image);
  const { detections } = await session.run({ image: new ort.Tensor(type, data, dims) }, { logSeverityLevel: SILENT });
  return findBoxes(about, detections, image, least);
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true, options: { score: { type: "string", default: "0.3" } } });
  const least = values.score.trim() ? Number(values.score) : NaN;
  if (positionals.length !== 2 || Number.isNaN(least)) {
    throw new Error("expected: node detect.mjs MODEL.onnx IMAGE [--score 0.3]");
  }
  const [path, picture] = positionals;
  const model = await load(path);
  const image = await read(picture);
  const found = await attempt(path, "cannot compute this input", () => detect(model, image, least));
  for (const record of found) console.log(JSON.stringify(record));
}

main().catch((error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = 2;
});
