"""Fuzz all readers with randomly damaged files, and with well-formed but hostile files and command lines. Each must
give a UserError, a counted skip or a result, and nothing else.

python tests/soak/damage.py [--count 20000] [--seed 0] [--only KIND]. The inputs run in child processes, so that crashes
and hangs are detected and reported with their seed. Not part of CI: takes minutes to an hour, depending on the count.
"""
import argparse
import collections
import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = ROOT

from tests.metainfo import classes_of
from tests.soak import hostile, well_formed

CHUNK = 200  # inputs per child process
SECONDS = 300  # timeout of one input


def damage(data, rng):
    """Flip bits, overwrite or insert bytes, cut out a range, or truncate the data; return the damaged bytes."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        kind, place = rng.integers(5), int(rng.integers(max(len(data), 1)))
        if not data:
            break
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place] = int(rng.integers(256))
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + int(rng.integers(1, 200))]
        else:
            data[place:place] = bytes(rng.integers(0, 256, int(rng.integers(1, 50)), dtype="uint8"))
    return bytes(data)


# ---------------------------------------------------------------- kinds: prepare(folder) -> (originals, use)
# originals: {name: bytes}; use(path) reads the damaged file and returns "result" or "skip", or raises UserError.


def photographs(folder):
    """Images of several formats, with orientations, tiles and many scans, read as in evaluation, prediction and
    conversion.

    Half of the damage is in the header. Header and decoded image must agree, within seconds and less than 3 GB.
    """
    import resource
    import time

    import cv2

    from src.imaging.reading import decode_image, header_size, read_image, read_size, without_orientation
    from tests.imaging.test_headers import FILES, HIDING, gray_tiff, many_scans, os2_bitmap, tiled
    from tools.benchmark_inputs import photograph

    image = photograph(160, 120)
    endings = (".jpg", ".png", ".webp", ".bmp", ".tif")
    originals = {f"x{ending}": cv2.imencode(ending, image)[1].tobytes() for ending in endings}
    originals |= {f"{name}.img": make(6) for name, make in FILES.items()}
    originals |= {f"{count} scans.jpg": many_scans(count, between=HIDING) for count in (10, 100, 2000)}
    originals |= {f"tiles of {side}.tif": tiled(600, 400, side, side) for side in (64, 512, 4096, 40_000)}
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    originals |= {"os2.bmp": os2_bitmap(8), "16.tif": gray_tiff(gray.astype("uint16") * 256)}

    def use(path):
        start = time.process_time()
        try:
            shown = read_image(path, max_pixels=10_000_000)
        except (OSError, ValueError):
            return "skip"  # the callers count and log it
        finally:
            assert time.process_time() - start < 10, "too slow"
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3_000_000, "too much memory"
        size = shown.shape[1::-1]
        with open(path, "rb") as file:
            data = file.read()
        assert size == read_size(path) == header_size(data) == decode_image(data).shape[1::-1]
        assert header_size(without_orientation(data)) in (size, size[::-1])
        return "result"

    def change(data, rng):
        end = 400 if rng.integers(2) else len(data)
        return damage(data[:end], rng) + data[end:]

    return originals, use, change


def annotations(folder):
    """COCO annotation files, converted to MindRecord rows."""
    import functools

    from src.data import conversion
    from src.data.coco import metainfo_of, read_coco
    from src.imaging.reading import LARGEST
    from src.tasks.detection import DETECTION
    from tools.benchmark_inputs import write_coco

    write_coco(os.path.join(folder, "coco"), 4, 160, 120, 3)
    with open(os.path.join(folder, "coco", "annotations", "instances_train2017.json"), "rb") as file:
        originals = {"a.json": file.read()}

    def use(path):
        coco = read_coco(path, task=DETECTION)
        image_dir = os.path.join(folder, "coco", "train2017")
        load = functools.partial(conversion._load_record, coco=coco, image_dir=image_dir, task=DETECTION,
                                 metainfo=metainfo_of(coco, DETECTION), max_pixels=LARGEST)
        return "skip" if any(load(info)[-1] for info in coco.dataset["images"]) else "result"

    return originals, use


def settings(folder):
    """Configuration files."""
    from src.model_utils.config import get_config

    originals = {}
    for name in sorted(os.listdir(os.path.join(ROOT, "configs"))):
        with open(os.path.join(ROOT, "configs", name), "rb") as file:
            originals[name] = file.read()

    def use(path):
        get_config("", ["--config_path", path])
        return "result"

    return originals, use


def rank_tables(folder):
    """Rank tables of two servers."""
    from src.commands.make_rank_table import rank_table
    from src.launch.rank_table import read_rank_table

    servers = [(f"10.0.0.{n}", [(d, f"192.168.{n}.{d}") for d in range(4)]) for n in (1, 2)]
    text = json.dumps(rank_table(servers), indent=1)

    def use(path):
        read_rank_table(path)
        return "result"

    return {"hccl.json": text.encode()}, use


def checkpoints(folder):
    """Checkpoints with their side files, loaded as in evaluation."""
    from src.core.files import write_json
    from src.inference.models import open_model
    from src.model_utils.config import get_config
    from src.network.centernet import build_network
    from src.weights.checkpoints import save_weights
    from src.weights.side_file import describe_model

    config = get_config("", ["--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.head_conv", "8"])
    network = build_network(config.net_config, classes_of(2), "composite")
    weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    good = save_weights(os.path.join(folder, "good.ckpt"), weights)
    side = os.path.join(folder, "good.json")
    write_json(side, describe_model(config, {"dataset": "x", "classes": ["a", "b"], "category_ids": [1, 2]}))
    with open(good, "rb") as file, open(side, "rb") as side_file:
        originals = {"x.ckpt": file.read(), "x.json": side_file.read()}

    def use(path):
        other = os.path.splitext(path)[0] + (".json" if path.endswith(".ckpt") else ".ckpt")
        shutil.copy(side if path.endswith(".ckpt") else good, other)
        open_model(os.path.splitext(path)[0] + ".ckpt").load(config)
        return "result"

    return originals, use


def weight_files(folder):
    """Weights of other projects, in PyTorch's three formats and MindSpore's; three in four damages change numbers."""
    import numpy as np
    import torch

    from src.weights.checkpoints import read_parameters, save_weights
    from src.weights.torch_files import read_torch_file
    from tests.weights.test_torch_files import write_tar

    state = {f"layer{number}.weight": np.arange(64, dtype=np.float32).reshape(4, 16) for number in range(3)}
    tensors = {name: torch.tensor(value).T for name, value in state.items()}
    for name, new in (("zip", True), ("pickles", False)):
        path = os.path.join(folder, f"{name}.pth")
        torch.save({"epoch": 3, "state_dict": tensors}, path, _use_new_zipfile_serialization=new)
    write_tar(os.path.join(folder, "tar.pth"), state)
    save_weights(os.path.join(folder, "mindspore.ckpt"), state)
    originals = {}
    for name in ("zip.pth", "pickles.pth", "tar.pth", "mindspore.ckpt"):
        with open(os.path.join(folder, name), "rb") as file:
            originals[name] = file.read()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def use(path):
        weights = read_parameters(path) if path.endswith(".ckpt") else read_torch_file(path)[0]
        for value in weights.values():
            np.sum(value if isinstance(value, np.ndarray) else value.asnumpy())
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < memory + 300_000, "more than 300 MB"
        return "result"

    def change(data, rng):
        if rng.integers(4) == 0:
            return damage(data, rng)
        numbers = bytearray(data)
        for _ in range(rng.integers(1, 4)):  # replace a number by a large or a small one
            start, size = int(rng.integers(len(data))), int(rng.choice([1, 2, 4, 8]))
            numbers_to_try = [0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**63]
            value = int(rng.choice(numbers_to_try)) if size > 1 else int(rng.integers(256))
            numbers[start : start + size] = (value % 256**size).to_bytes(size, "little")
        data = bytes(numbers)
        return data[:-17] if data[-17:-10] == b"crc_num" else data  # the checksum would reject every damage

    return originals, use, change


def records(folder):
    """MindRecord files, read by the training pipeline."""
    from src.data.coco import find_split
    from src.data.train_set import TrainSet
    from src.model_utils.config import get_config
    from tests.conftest import convert
    from tools.benchmark_inputs import write_coco

    write_coco(os.path.join(folder, "coco"), 8, 160, 120, 3)
    split = find_split(os.path.join(folder, "coco"), "train", get_config("", []).dataset_config)
    convert(split, os.path.join(folder, "records"), "p", folder, num_shards=2)
    originals = {}
    for name in sorted(os.listdir(os.path.join(folder, "records"))):
        with open(os.path.join(folder, "records", name), "rb") as file:
            originals[name] = file.read()

    def use(path):
        copy = os.path.join(os.path.dirname(path), "set")
        shutil.copytree(os.path.join(folder, "records"), copy)
        shutil.copy(path, copy)
        try:
            config = get_config("", ["--mindrecord_dir", copy, "--mindrecord_prefix", "p",
                                     "--train_config.batch_size", "4", "--dataset_config.input_res_train", "[64, 64]"])
            train_set = TrainSet(config)
            with train_set.named_errors():
                for _ in train_set.batches(0, train_set.steps_per_epoch).create_tuple_iterator(num_epochs=1):
                    pass
        finally:
            shutil.rmtree(copy)
        return "result"

    return originals, use


def onnx_files(folder):
    """ONNX files in both forms, loaded and run; half of the damage is in nodes and metadata, which are small."""
    import numpy as np

    from src.core.files import write_json
    from src.inference.detector import export_onnx, load_detector
    from src.inference.models import open_model
    from src.model_utils.config import get_config
    from src.network.centernet import build_network
    from src.weights.checkpoints import save_weights
    from src.weights.side_file import describe_model, read_side_file

    good = os.path.join(folder, "good")
    args = ["--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.head_conv", "8",
            "--export_config.export_name", good, "--export_config.export_format", "ONNX",
            "--export_config.ckpt_file", f"{good}.ckpt"]
    originals = {}
    for form in ("deform_conv", "grid_sample"):
        config = get_config("", [*args, "--export_config.onnx_dcn", form])
        network = build_network(config.net_config, classes_of(2), "composite")
        weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
        save_weights(f"{good}.ckpt", weights)
        classes = {"dataset": "d", "classes": ["a", "b"], "category_ids": [1, 2]}
        write_json(f"{good}.json", describe_model(config, classes))
        detector = load_detector(f"{good}.ckpt", read_side_file(f"{good}.ckpt"), config.eval_config, "CPU")
        with open(export_onnx(detector, config.export_config, config.eval_config), "rb") as file:
            originals[f"{form}.onnx"] = file.read()

    def use(path):
        open_model(path).load(config)(np.zeros((1, 3, 32, 64), np.float32))
        return "result"

    def change(data, rng):
        ranges = (0, len(data)), (0, 20_000), (len(data) - 3000, len(data))
        start, end = ranges[int(rng.choice(3, p=[0.5, 0.3, 0.2]))]
        return data[:start] + damage(data[start:end], rng) + data[end:]

    return originals, use, change


XML = ("<annotation><filename>1.png</filename><size><width>32</width><height>24</height></size>"
       "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object>"
       "</annotation>")
KITTI_LINE = "Car 0.00 0 -1.5 1.00 2.00 20 15 1.5 1.6 4 1 1.5 12 -1.4\n"
CALIB = "P0: 1 0 0 0 0 1 0 0 0 0 1 0\nP2: 30 0 16 1 0 30 12 0 0 0 1 0.01\nR0_rect: 1 0 0 0 1 0 0 0 1\n"
LABELS = {  # {form: {path in a folder: text}}, besides 1.png to 3.png in the folder of IMAGES
    "yolo": {"data.yaml": "path: .\ntrain: list.txt\nval: [images]\nnc: 2\nnames: {0: cat, 1: dog}\n"
                          "kpt_shape: [1, 2]\n",
             "list.txt": "./images/1.png\n./images/2.png\n",
             "labels/1.txt": "0 .5 .5 .2 .3 .1 .1\n1 .1 .2 .3 .4 .5 .6\n"},
    "txt": {"classes.txt": "cat\ndog\n", "images/1.txt": "1 0.5 0.5 0.25 0.25\n0 0.1 0.1 0.4 0.1 0.4 0.4\n",
            "train.txt": "images/1.png\nimages/2.png\n/else/images/3.png\n"},
    "voc": {"ImageSets/Main/train.txt": "1\n2\n3\n", "ImageSets/Main/cat_train.txt": "1 1\n2 -1\n",
            "Annotations/1.xml": XML, "Annotations/2.xml": XML, "Annotations/3.xml": XML},
    "labelimg": {"images/1.xml": XML, "images/2.xml": XML, "images/3.xml": XML},
    "coco": {"annotations/instances_default.json": json.dumps({
        "images": [{"id": number, "file_name": f"{number}.png", "width": 32, "height": 24} for number in (1, 2, 3)],
        "annotations": [{"id": number, "image_id": number, "category_id": number, "bbox": [1, 2, 20, 10]}
                        for number in (1, 2)],
        "categories": [{"id": number, "name": f"c{number}", "supercategory": "c0"} for number in (0, 1, 2)]})},
    "pose": {"data.yaml": "train: [images]\nnames: [cat]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n"
                          "kpt_names: {0: [a, b]}\n",
             "labels/1.txt": "0 .5 .5 .2 .3 .1 .1 2 .4 .4 1\n", "labels/2.txt": "0 .1 .2 .3 .4 .5 .6 2 0 0 0\n"},
    "deeplabcut": {"config.yaml": "Task: x\nskeleton:\n- - nose\n  - tail\n",
                   "images/CollectedData_me.csv": "scorer,me,me,me,me\nindividuals,m1,m1,m1,m1\n"
                   "bodyparts,nose,nose,tail,tail\ncoords,x,y,x,y\nlabeled-data/v/1.png,1,2,3,4\nlabeled-data/v/2.png,5.5,6,,\n"},
    "keypoints": {"annotations/person_keypoints_default.json": json.dumps({
        "images": [{"id": number, "file_name": f"{number}.png", "width": 32, "height": 24} for number in (1, 2, 3)],
        "annotations": [{"id": number, "image_id": number, "category_id": 1, "bbox": [1, 2, 20, 10][: 4 * (number < 3)],
                         "keypoints": [3, 4, 2, 5, 6, 1], "num_keypoints": 2} for number in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat", "keypoints": ["a", "b"], "skeleton": [[1, 2]],
                        "flip_idx": [[0, 1]]}]})},
    "kitti": {**{f"training/calib/{number}.txt": CALIB for number in (1, 2, 3)}, "training/label_2/3.txt": KITTI_LINE,
              "training/label_2/1.txt": KITTI_LINE + KITTI_LINE.replace("Car", "Van").replace("20 15", "21 16"),
              "training/label_2/2.txt": f"{KITTI_LINE}DontCare -1 -1 -10 3 2 9 8 -1 -1 -1 -1000 -1000 -1000 -10\n",
              "ImageSets/train.txt": "1\n2\n", "ImageSets/val.txt": "3\n"},
}
IMAGES = {"kitti": "training/image_2"}  # folders of images, "images" if a form is not named


def labels(folder):
    """Imported label folders with one damaged file; half of the damaged JSON and YAML files are well-formed."""
    import cv2
    import numpy as np

    from src.commands import import_dataset

    image = cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes()
    paths = {f"{form}-{name.replace('/', '-')}": (form, name) for form, files in LABELS.items() for name in files}
    originals = {flat: LABELS[form][name].encode() for flat, (form, name) in paths.items()}

    def use(path):
        form, damaged = paths[os.path.basename(path)]
        source = os.path.join(os.path.dirname(path), "in")
        images = {f"{IMAGES.get(form, 'images')}/{number}.png": image for number in (1, 2, 3)}
        for name, data in {**images, **LABELS[form]}.items():
            os.makedirs(os.path.dirname(os.path.join(source, name)), exist_ok=True)
            with open(os.path.join(source, name), "wb") as file:
                file.write(data if isinstance(data, bytes) else data.encode())
        shutil.copy(path, os.path.join(source, damaged))
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            import_dataset.main(["--input", source, "--output", os.path.join(os.path.dirname(path), "out")])
        return "skip" if "\nskipped " in output.getvalue() else "result"

    def change(data, rng):
        well_formed_change = {b"{": hostile.hostile_json, b"p": hostile.hostile_yaml}.get(data[:1], damage)
        return (damage, well_formed_change)[rng.integers(2)](data, rng)

    return originals, use, change


def calibrations(folder):
    """Calibrations of images in files of every form: a camera has finite pixels and places, or the file is named."""
    import numpy as np

    from src.imaging.camera import project, read_calib, unproject

    matrix = [[700.5, 0, 600, 45], [0, 710, 180, -0.5], [0, 0, 1, 0.005]]
    originals = {"kitti.txt": CALIB, "numbers.txt": " ".join(str(number) for row in matrix for number in row),
                 "focal.txt": "700, 710, 600, 180\n", "lists.txt": json.dumps(matrix),
                 "named.txt": json.dumps({"calib": matrix, "file": "1.png"}, indent=1)}

    def use(path):
        calib = read_calib(path)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            pixel = project(np.array([1.0, 1.5, 20]), calib)
            place = unproject(np.array([300.0, 200]), np.array(20.0), calib)
        assert np.isfinite(np.float32([*pixel, *place])).all(), calib
        return "result"

    def change(data, rng):
        is_json = data[:1] in (b"{", b"[") and rng.integers(2)
        return hostile.hostile_json(data, rng) if is_json else damage(data, rng)

    return {name: text.encode() for name, text in originals.items()}, use, change


KINDS = {  # (prepare, fraction of the inputs, change of an input, or None if prepare returns it)
    "photographs": (photographs, 0.15, None), "annotations": (annotations, 0.05, damage),
    "settings": (settings, 0.075, damage), "rank_tables": (rank_tables, 0.05, damage),
    "checkpoints": (checkpoints, 0.025, damage), "records": (records, 0.025, damage),
    "weight_files": (weight_files, 0.025, None), "onnx_files": (onnx_files, 0.025, None),
    "labels": (labels, 0.05, None), "ids": (well_formed.ids, 0.05, None),
    "calibrations": (calibrations, 0.025, None), "all_through": (well_formed.all_through, 0.075, hostile.hostile_json),
    "keypoints_through": (well_formed.keypoints_through, 0.05, hostile.hostile_json),
    "boxes_3d_through": (well_formed.boxes_3d_through, 0.05, hostile.hostile_json),
    "settings_in_use": (well_formed.settings_in_use, 0.1, hostile.hostile_yaml),
    "written_files": (well_formed.written_files, 0.05, hostile.hostile_json),
    "command_lines": (well_formed.command_lines, 0.15, None),
}


# ---------------------------------------------------------------- child processes


def child(kind, seeds, queue):
    """Run the inputs of these seeds; put (seed, outcome, text) into the queue."""
    import numpy as np

    from src.core.errors import UserError
    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        prepare, _, change = KINDS[kind]
        originals, use, *own_change = prepare(folder)
        change = change or own_change[0]
        names = list(originals)
        for seed in seeds:
            rng = np.random.default_rng([seed])
            name = names[int(rng.integers(len(names)))]
            own_folder = os.path.join(folder, f"try{seed}")
            os.mkdir(own_folder)
            path = os.path.join(own_folder, name)
            with open(path, "wb") as file:
                file.write(change(originals[name], rng))
            try:
                outcome, text = use(path), ""
            except (UserError, OSError) as error:  # errors.run prints a sentence for both
                outcome, text = "error", str(error)
            except Exception:
                with open(path, "rb") as file:
                    shown = file.read() if len(originals[name]) < 1000 else b""
                outcome, text = "FAILED", f"{name}: {shown!r} {traceback.format_exc(limit=-4)}"
            queue.put((seed, outcome, text))
            shutil.rmtree(own_folder)


def run(kind, count, first_seed, report, failures):
    """Run `count` inputs of a kind; count outcomes in report {outcome: number} and append to `failures`."""
    context = multiprocessing.get_context("spawn")
    for start in range(first_seed, first_seed + count, CHUNK):
        seeds = list(range(start, min(start + CHUNK, first_seed + count)))
        while seeds:
            queue = context.Queue()
            process = context.Process(target=child, args=(kind, seeds, queue))
            process.start()
            seeds = collect(process, queue, seeds, kind, report, failures)


def collect(process, queue, seeds, kind, report, failures):
    """Collect a child's outcomes; return the remaining seeds if it crashed or hung, without the failed one."""
    import queue as queues

    left, waited = list(seeds), 0  # seconds without an outcome
    while left:
        try:
            seed, outcome, text = queue.get(timeout=1)
        except queues.Empty:
            if process.is_alive() and waited < SECONDS:
                waited += 1
                continue
            alive = process.is_alive()
            process.kill()
            failures.append((kind, left[0], f"timeout after {SECONDS} s" if alive else f"exit code {process.exitcode}"))
            report["FAILED"] += 1
            return left[1:]
        waited = 0
        left.remove(seed)
        report[outcome] += 1
        if outcome == "FAILED":
            failures.append((kind, seed, text))
    process.join()
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="total number of inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (default: %(default)s)")
    parser.add_argument("--only", choices=list(KINDS), help="run only this kind")
    options = parser.parse_args()
    failures = []
    for kind, (_, share, _) in KINDS.items():
        if options.only not in (None, kind):
            continue
        report = collections.Counter()
        try:
            run(kind, options.count if options.only else round(options.count * share), options.seed, report, failures)
        except KeyboardInterrupt:
            print("interrupted; results so far:")
            break
        finally:
            totals = (f"{outcome} {report[outcome]:6}  " for outcome in ("result", "skip", "error", "FAILED"))
            print(f"{kind:16}{''.join(totals)}", flush=True)
    for kind, seed, text in failures[:40]:
        print(f"\n{kind}, seed {seed}: {text}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
