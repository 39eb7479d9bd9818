"""Readers of hostile but well-formed inputs: kinds of damage.py, prepare(folder) -> (originals, use).

Commands run in this process and finish quickly: a stub detects, and nothing is compiled or trained.
"""
import contextlib
import functools
import importlib
import importlib.util
import io
import json
import os
import shutil
import sys
import zlib
from unittest import mock

from src.data.objects import ground_truth
from src.tasks.detection import targets
from tests.metainfo import classes_of
from tests.soak import hostile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def keypoints_through(folder):
    """The same with keypoints: two classes with other ones."""
    originals, use = all_through(folder)
    content = json.loads(originals["a.json"])
    names = {1: ["nose", "left_ear", "right_ear"], 2: ["nose", "tail"]}
    for category in content["categories"]:
        category["keypoints"] = names.get(category["id"], [])
        category["skeleton"] = [[1, 2]] if category["keypoints"] else []
    content["categories"][0]["flip_idx"] = [[1, 2]]
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        count = len(names.get(entry["category_id"], []))
        entry |= {"keypoints": [x + w / 4, y + h / 4, 2, x + w / 2, y + h / 2, 1, 0, 0, 0][: 3 * count],
                  "num_keypoints": min(count, 2)}
    good = json.dumps(content).encode()
    files = {f"{number}.json": good for number in range(len(MISTAKES))}  # half of all
    for name, spoil in MISTAKES.items():
        spoiled = json.loads(good)
        spoil(spoiled["categories"][0], spoiled["annotations"])
        files[f"{name}.json"] = json.dumps(spoiled).encode()
    return files, use


def _all_values(annotations, values):
    for entry in annotations:
        entry["keypoints"] = values


MISTAKES = {  # of people: {name: change of (a category, the annotations)}
    "length": lambda category, annotations: _all_values(annotations, [1, 2, 2, 3]),
    "visibility": lambda category, annotations: _all_values(annotations, [1, 2, 7] * 3),
    "nan": lambda category, annotations: _all_values(annotations, [float("nan"), 2, 2] * 3),
    "far": lambda category, annotations: _all_values(annotations, [1e300, -1e300, 2] * 3),
    "text": lambda category, annotations: _all_values(annotations, ["1", "2", "2"] * 3),
    "absent": lambda category, annotations: _all_values(annotations, [0] * 9),
    "twice": lambda category, annotations: category.update(keypoints=["nose", "nose", "ear"]),
    "skeleton": lambda category, annotations: category.update(skeleton=[[1, 18]]),
    "overlap": lambda category, annotations: category.update(flip_idx=[[0, 1], [1, 2]]),
    "permutation": lambda category, annotations: category.update(flip_idx=[0, 2, 1]),
}


def boxes_3d_through(folder):
    """The same with 3D boxes: KITTI's cars, pedestrians, vans and regions to ignore."""
    originals, use = all_through(folder)
    content = json.loads(originals["a.json"])
    for category, name in zip(content["categories"], ("Pedestrian", "Car", "Van", "DontCare")):
        category["name"] = name
    for image in content["images"]:
        image["calib"] = [[100, 0, 80, 5], [0, 100, 60, -1], [0, 0, 1, 0.01]]
    for number, entry in enumerate(content["annotations"]):
        entry |= {"dim": [1.5, 1.6, 4], "location": [1 - number / 2, 1.5, 5 + number], "depth": 5 + number,
                  "alpha": number / 2 - 1, "rotation_y": number / 2 - 1.2, "truncated": 0.1, "occluded": number % 3}
    good = json.dumps(content).encode()
    files = {f"{number}.json": good for number in range(len(SOLID_MISTAKES))}  # half of all
    for name, spoil in SOLID_MISTAKES.items():
        spoiled = json.loads(good)
        spoil(spoiled["images"][0], spoiled["annotations"])
        files[f"{name}.json"] = json.dumps(spoiled).encode()
    return files, use


def _each(annotations, **fields):
    for entry in annotations:
        entry |= fields


SOLID_MISTAKES = {  # of 3D boxes: {name: change of (an image, the annotations)}
    "no_calib": lambda image, annotations: image.pop("calib"),
    "shape": lambda image, annotations: image.update(calib=[[100, 0, 80], [0, 100, 60], [0, 0, 1]]),
    "four": lambda image, annotations: image.update(calib=[100, 100, 80, 60]),
    "nan_calib": lambda image, annotations: image.update(calib=[[float("nan")] * 4] * 3),
    "text_calib": lambda image, annotations: image.update(calib=[["100", "0", "80", "5"]] * 3),
    "singular": lambda image, annotations: image.update(calib=[[100, 0, 80, 5], [0, 100, 60, -1], [0, 0, 0, 1]]),
    "rotated": lambda image, annotations: image.update(calib=[[0, 100, 80, 5], [100, 0, 60, -1], [0, 0, 1, 1]]),
    "huge_calib": lambda image, annotations: image.update(calib=[1e200, 1e200, 80, 60]),
    "tiny_calib": lambda image, annotations: image.update(calib=[1e-3, 1e-3, 1e9, -1e9]),
    "size": lambda image, annotations: image.update(width="160", height=[120]),
    "two": lambda image, annotations: _each(annotations[::2], dim=[1.5, 1.6]),
    "flat": lambda image, annotations: _each(annotations[::2], dim=[1.5, 0, 4]),
    "huge": lambda image, annotations: _each(annotations[::2], dim=[1e300, 1e300, 4], depth=1e300),
    "behind": lambda image, annotations: _each(annotations[::2], depth=-5, location=[1, 1.5, -5]),
    "nan": lambda image, annotations: _each(annotations[::2], location=[1, 1.5, float("nan")]),
    "text": lambda image, annotations: _each(annotations, depth="5", alpha="0", dim=["1", "2", "3"]),
    "degrees": lambda image, annotations: _each(annotations[::2], alpha=90, rotation_y=180),
    "no_place": lambda image, annotations: _each(annotations[::2], location=None, rotation_y=None),
    "no_angle": lambda image, annotations: _each(annotations, alpha=None, rotation_y=None),
    "placeholders": lambda image, annotations: _each(annotations[::2], dim=[-1] * 3, location=[-1000] * 3, depth=-1000,
                                                     alpha=-10, rotation_y=-10),
    "occluded": lambda image, annotations: _each(annotations[::2], occluded="no", truncated=None),
    "crowds": lambda image, annotations: _each(annotations[::2], iscrowd=1, type=["Van"]),
    "types": lambda image, annotations: _each(annotations, type=7),
}


def all_through(folder):
    """COCO annotation files, converted, scored, drawn, merged and (one in ten) reported on."""
    from src.commands import merge_pascal_json
    from src.data.coco import Split, check_classes, image_list, image_size, read_coco
    from src.evaluation import results
    from src.imaging.reading import read_image
    from src.model_utils.config import make_config
    from src.runs.report import Run, write_report
    from src.tasks import task_of
    from src.tasks.pictures import compare
    from tests.conftest import convert
    from tools.benchmark_inputs import write_coco

    write_coco(os.path.join(folder, "coco"), 3, 160, 120, 2)
    image_dir = os.path.join(folder, "coco", "train2017")
    good = os.path.join(folder, "coco", "annotations", "instances_train2017.json")
    with open(good, "rb") as file:
        content = json.load(file)
    content["categories"] = content["categories"][:4]
    for annotation in content["annotations"]:
        annotation["category_id"] = 1 + annotation["category_id"] % 4
    with open(good, "w", encoding="utf-8") as file:
        json.dump(content, file)

    def use(path):
        folder = os.path.dirname(path)
        split = Split(path, image_dir)
        manifest = convert(split, os.path.join(folder, "records"), "p", folder)
        task = task_of(manifest)
        coco = read_coco(path, task=task)
        category_ids = check_classes(manifest, coco, path)
        images, records, skipped = dict(image_list(split, coco)), [], []
        for image_id, image_path in images.items():
            truth = ground_truth(task, coco, image_id, category_ids, manifest)
            records += task.results.coco_records(image_id, truth, category_ids)
            try:
                image = read_image(image_path, image_size(coco.imgs[image_id]))
                compare(task, image, truth, truth, manifest, 0.3)
            except (OSError, ValueError) as error:
                skipped.append(f"image {image_id} ({image_path}): {error}")
        classes = dict(zip(category_ids, manifest["classes"]))
        results.Results(task, path, list(images.items()), records, skipped, classes).write(folder, "val")
        options = make_config(eval_config={"voc_metric": True}).eval_config
        results.score_and_write(folder, task, coco, records, "x", {}, options)
        with open(path, "rb") as file:
            if zlib.crc32(file.read()) % 10 == 0:
                with open(os.path.join(folder, "metrics.json"), encoding="utf-8") as metrics:
                    run = Run(None, json.load(metrics), coco, records, images, task=task)
                write_report(os.path.join(folder, "r.html"), "x", run)
        merge_pascal_json.main(["--inputs", path, "--output", os.path.join(folder, "merged.json")])
        return "skip" if manifest["skipped"] or skipped else "result"

    with open(good, "rb") as file:
        return {"a.json": file.read()}, use


def ids(folder):
    """COCO annotation files with mistakes in ids, names and boxes: images do not lose all labels unnoticed, objects are
    distinct, perfect detections score 1, and conversion keeps all objects."""
    from src.data.coco import Split, read_coco
    from src.tasks.detection import scores
    from tests.conftest import convert
    from tools.benchmark_inputs import write_coco

    write_coco(os.path.join(folder, "coco"), 6, 160, 120, 1)  # with one object per image, a lost one is noticed
    image_dir = os.path.join(folder, "coco", "train2017")
    with open(os.path.join(folder, "coco", "annotations", "instances_train2017.json"), "rb") as file:
        original = file.read()

    def use(path):
        folder = os.path.dirname(path)
        with open(path, encoding="utf-8") as file:
            labeled = {as_id(entry.get("image_id")) for entry in json.load(file)["annotations"]}
        coco = read_coco(path, image_dir)
        for image_id in coco.imgs:
            entries = coco.imgToAnns[image_id]
            assert entries or image_id not in labeled, f"image {image_id} has lost its labels"
            assert len({(entry["category_id"], entry["iscrowd"], *entry["bbox"]) for entry in entries}) == len(entries)
        objects = [entry for entry in coco.dataset["annotations"] if not entry["iscrowd"]]
        records = [{**{name: entry[name] for name in ("image_id", "category_id", "bbox")}, "score": 0.5}
                   for entry in objects]
        if objects:
            _, metrics = scores.score(coco, records)
            assert metrics["AP"] > 0.9999 and sum(metrics["objects_per_class"].values()) == len(objects), metrics
        manifest = convert(Split(path, image_dir), os.path.join(folder, "records"), "p", folder)
        skipped = manifest["skipped"]
        lost = {int(text.split()[1]) for text in skipped if text.startswith("image ") and image_dir in text}
        kept = [entry for entry in coco.dataset["annotations"] if entry["image_id"] not in lost]
        assert manifest["objects"] == len(kept), skipped
        return "skip" if coco.skipped else "result"

    return {"a.json": original}, use, hostile.mixed_ids


def as_id(value):
    """An id as a number, or None if it is not one."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return int(value) if not isinstance(value, str) else int(float(value))


def settings_in_use(folder):
    """Configurations, used for a sample, an evaluation input, the learning rates and the side file."""
    import numpy as np

    from src.data.samples import make_sample, sample_layout
    from src.imaging.view import Fit, make_input, normalize
    from src.model_utils.config import DEFAULT_CONFIG, get_config
    from src.tasks.augmentation import random_augmentation, ranges_of
    from src.training.optimizer import build_schedule
    from src.weights.side_file import describe_model
    from tools.benchmark_inputs import photograph

    originals = {}
    for name in sorted(os.listdir(os.path.join(ROOT, "configs"))):
        with open(os.path.join(ROOT, "configs", name), "rb") as file:
            originals[name] = file.read()
    with open(DEFAULT_CONFIG, "rb") as file:
        originals["default_config.yaml"] = file.read().split(b"\n---", 1)[0]
    image = photograph(160, 120)

    def use(path):
        config = get_config("", ["--config_path", path])
        options = config.dataset_config
        describe_model(config, {"dataset": "x", "classes": ["a"], "category_ids": [1]})
        build_schedule(config.train_config, 10, config.epoch_size)
        if max(options.input_res_train + options.input_res_test) <= 1024:
            boxes = np.array([[10, 10, 60, 90]], np.float32)
            ratio = config.net_config.down_ratio
            layout = sample_layout(config, classes_of(1))
            hm = np.zeros((1, *layout.out_size[::-1]), np.float32)
            rng = np.random.default_rng([config.seed, 0, 1])
            augmentation = random_augmentation(rng, (160, 120), layout.input_size, ranges_of(config))
            objects = {"boxes": boxes, "labels": np.zeros(1, np.int32)}
            make_sample(targets, image, objects, augmentation, layout, {"hm": hm})
            for scale in config.eval_config.multi_scales:
                pixels, _ = make_input(image, scale, Fit(config.eval_config.keep_res, options.input_res_test), ratio)
                normalize(pixels, options.mean, options.std)
        return "result"

    return originals, use


class Stub:
    """A stub of a Detector: random detections for any batch."""

    weights = ""

    def __init__(self, description, k, input_res=None, batch_size=None, from_bytes=False):
        self.description, self.k, self.input_res = description, k, input_res
        self.batch_size, self.from_bytes = batch_size, from_bytes
        self.down_ratio, self.network = 4, None

    def compile(self, batch):
        """Do nothing."""
        return 0.0

    def __call__(self, batch):
        import numpy as np

        rng = np.random.default_rng(0)
        labels = rng.integers(0, len(self.description["classes"]), (self.k, 1))
        found = np.hstack([rng.uniform(0, 30, (self.k, 5)), labels])
        found[:, 2:4] += found[:, :2]
        found[:, 4] /= 30
        return np.repeat(found.astype(np.float32)[None], len(batch), 0)

    def heatmap(self, batch):
        """Heatmaps without objects."""
        import numpy as np

        height, width = batch.shape[1:3] if self.from_bytes else batch.shape[2:]
        return np.zeros((len(batch), len(self.description["classes"]), height // 4, width // 4), np.float32)


def use_stubs():
    """Replace networks, training and subprocesses in this process, so that commands finish quickly."""
    from src.inference import detector

    def load_detector(checkpoint, description, eval_config, target, dcn_impl="auto", from_bytes=False, use_ema=True):
        return Stub(description, eval_config.K, from_bytes=from_bytes)

    def load_mindir(path, side):
        return Stub(side, side["K"], side["input_res"], side["batch_size"], side["input_type"] == "uint8")

    def train(config, train_set, target, rank, data=None):
        from src.core.interrupts import Interrupted
        from src.training.engine import steps_to_do
        from src.training.optimizer import build_schedule
        from src.weights.side_file import describe_model

        describe_model(config, train_set.manifest)
        build_schedule(config.train_config, train_set.steps_per_epoch, config.epoch_size)
        steps_to_do(config, train_set, 0)
        raise Interrupted("training starts here")

    def export(network, example, file_name, file_format):
        with open(file_name, "wb") as file:
            file.write(b"x")

    def run(command, **options):
        from src.core.interrupts import Interrupted

        raise Interrupted("a subprocess starts here")

    def few_images(write_split):
        def write_few(folder, split, count, options):
            if count > 10:
                from src.core.interrupts import Interrupted

                raise Interrupted("many images are drawn here")
            return write_split(folder, split, count, options)

        return write_few

    drawn = [importlib.import_module(f"src.commands.make_{kind}_dataset") for kind in ("shapes", "scenes")]
    for patch in (
        *(mock.patch.object(module, "write_split", few_images(module.write_split)) for module in drawn),
        mock.patch.object(detector, "load_detector", load_detector),
        mock.patch.object(detector, "load_mindir", load_mindir),
        mock.patch("src.training.engine.train", train), mock.patch("mindspore.export", export),
        mock.patch("tools.train_full.run", run),
        mock.patch("tools.benchmark.run_part", lambda part, options: []),
        mock.patch("src.commands.serve.serve", lambda model, options, listener: listener.close()),
    ):
        patch.start()


def make_base(folder):
    """Create a folder with all files that COMMANDS name; return its path."""
    import numpy as np

    from src.commands import make_rank_table
    from src.core.files import write_json
    from src.data.coco import find_split
    from src.inference.offline import input_name, result_name
    from src.model_utils.config import get_config
    from src.network.centernet import build_network
    from src.weights.checkpoints import save_weights
    from src.weights.side_file import describe_model
    from tests.conftest import convert
    from tools.benchmark_inputs import jpeg, photograph, write_coco

    base = os.path.join(folder, "base")
    write_coco(os.path.join(base, "data"), 2, 96, 64, 2)
    for name in ("{}2017", os.path.join("annotations", "instances_{}2017.json")):
        source, target = (os.path.join(base, "data", name.format(split)) for split in ("train", "val"))
        (shutil.copytree if os.path.isdir(source) else shutil.copy)(source, target)
    annotation = os.path.join(base, "data", "annotations", "instances_val2017.json")
    with open(annotation, encoding="utf-8") as file:
        categories = json.load(file)["categories"]
    classes, ids = [entry["name"] for entry in categories], [entry["id"] for entry in categories]
    config = get_config("", ["--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.head_conv", "8"])
    side = describe_model(config, {"dataset": "x", "classes": classes, "category_ids": ids})
    network = build_network(config.net_config, classes_of(len(classes)), "composite")
    weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    save_weights(os.path.join(base, "m.ckpt"), weights)
    write_json(os.path.join(base, "m.json"), side)
    with open(os.path.join(base, "e.mindir"), "wb") as file:
        file.write(b"x")
    exported = {"input_res": [64, 64], "batch_size": 1, "input_type": "uint8", "down_ratio": 4, "K": 5,
                "flip_test": False}
    write_json(os.path.join(base, "e.json"), {**side, **exported})
    split = find_split(os.path.join(base, "data"), "train", config.dataset_config)
    convert(split, os.path.join(base, "records"), name=base)
    with open(os.path.join(base, "image.jpg"), "wb") as file:
        file.write(jpeg(photograph(96, 64)))
    os.mkdir(os.path.join(base, "empty"))
    os.mkdir(os.path.join(base, "results"))
    view = {"center": [32, 32], "size": 64.0, "out_hw": [16, 16], "scale": 1.0}
    os.mkdir(os.path.join(base, "meta"))
    images = [{"id": number, "file_name": "x", **view} for number in (1, 2)]
    meta = {"classes": classes, "K": 5, "skipped": [], "images": images}
    write_json(os.path.join(base, "meta", "inputs.json"), meta)
    os.mkdir(os.path.join(base, "inputs"))
    for number in (1, 2):
        np.ones((5, 6), np.float32).tofile(os.path.join(base, "results", result_name(input_name(number))))
        np.zeros((64, 64, 3), np.uint8).tofile(os.path.join(base, "inputs", input_name(number)))
    for name, text in (("text.txt", "words\n"), ("broken.json", "{"), ("ini.ini", "[config]\nepoch_size = 2\n"),
                       ("log.txt", "".join(f"epoch: 1 | step: {step} | loss {9 - step} |\n" for step in range(1, 6)))):
        with open(os.path.join(base, name), "w", encoding="utf-8") as file:
            file.write(text)
    with contextlib.redirect_stdout(io.StringIO()):
        make_rank_table.main(["--cpu", "--devices", "0-1", "--server_id", "127.0.0.1",
                              "--output", os.path.join(base, "hccl.json")])
    voc = os.path.join(base, "voc")
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        os.makedirs(os.path.join(voc, name))
    shutil.copy(os.path.join(base, "image.jpg"), os.path.join(voc, "JPEGImages", "1.jpg"))
    with open(os.path.join(voc, "ImageSets", "Main", "test.txt"), "w", encoding="utf-8") as file:
        file.write("1\n")
    with open(os.path.join(voc, "Annotations", "1.xml"), "w", encoding="utf-8") as file:
        file.write("<a><size><width>96</width><height>64</height></size>"
                   "<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
                   "</object></a>")

    os.chdir(base)
    run("eval", ["--load_checkpoint_path", "m.ckpt", "--data_dir", "data", "--save_result_dir", "run", *SMALL])
    run("tools.convert_centernet", ["--reverse", "--ckpt_file", "m.ckpt", "--output_file", "m.pth"])
    with open(os.path.join(base, "run", "train_record.jsonl"), "w", encoding="utf-8") as file:
        names = ("loss", "hm_loss", "wh_loss", "off_loss", "lr", "images_per_second")
        for step in (1, 2, 3):
            file.write(json.dumps({"step": step, "epoch": 1, **dict.fromkeys(names, 1.5)}) + "\n")
    return base


# ---------------------------------------------------------------- commands

SMALL = ["--dataset_config.input_res_train", "[64, 64]", "--dataset_config.input_res_test", "[64, 64]",
         "--device_target", "CPU"]
COMMANDS = [
    ["train", "--mindrecord_dir", "records", "--train_config.batch_size", "2", *SMALL],
    ["eval", "--load_checkpoint_path", "m.ckpt", "--data_dir", "data", "--save_result_dir", "out", *SMALL],
    ["export", "--export_config.ckpt_file", "m.ckpt", "--export_config.export_name", "x",
     "--export_config.input_res", "[64, 64]", *SMALL],
    ["preprocess", "--val_data_dir", "data", "--predict_dir", "out", "--export_config.input_res", "[64, 64]"],
    ["postprocess", "--result_path", "results", "--meta_path", "meta", "--label_path", "data", "--save_path", "out"],
    ["src.commands.dataset", "--coco_data_dir", "data", "--mindrecord_dir", "out", "--dataset_config.num_workers", "1"],
    ["tools.predict", "--load_checkpoint_path", "m.ckpt", "--input", "image.jpg", "--output", "out",
     "--device_target", "CPU", "--input_res", "64", "64", "--multi_scales", "[1]", "--score_thresh", "0.3",
     "--max_pixels", "9999", "--max_frames", "3"],
    ["tools.predict", "--mindir", "e.mindir", "--input", "data/val2017", "--output", "out", "--batch_size", "2",
     "--classes", "class 1"],
    ["tools.serve", "--load_checkpoint_path", "m.ckpt", "--port", "0", "--host", "127.0.0.1", "--max_bytes", "9",
     "--deadline", "3"],
    ["tools.infer_mindir", "--mindir", "e.mindir", "--input_dir", "inputs", "--result_path", "out",
     "--device_target", "CPU"],
    ["tools.contact_sheet", "--mindir", "e.mindir", "--data_dir", "data", "--output", "s.png", "--count", "2",
     "--columns", "1", "--width", "99"],
    ["tools.convert_centernet", "--reverse", "--ckpt_file", "m.ckpt", "--output_file", "m.pth"],
    ["tools.convert_centernet", "--ckpt_file", "m.pth", "--output_file", "out/x.ckpt", "--annotation",
     "data/annotations/instances_val2017.json"],
    ["tools.convert_resnet18", "--ckpt_file", "m.ckpt", "--output_file", "b.ckpt", "--torch_name_file", "text.txt",
     "--ms_name_file", "text.txt"],
    ["tools.loss", "--candidate-log", "log.txt", "--reference-log", "log.txt", "--steps", "3", "--output", "l.png"],
    ["tools.make_rank_table", "--cpu", "--devices", "0-1", "--server_id", "127.0.0.1", "--output", "h.json"],
    ["tools.make_rank_table", "--merge", "hccl.json", "--output", "h.json", "--hccn_conf", "text.txt"],
    ["tools.make_shapes_dataset", "--output", "s", "--train", "1", "--val", "1", "--size", "64", "--smallest", "20",
     "--largest", "30", "--objects", "1", "--seed", "1"],
    ["tools.make_scenes_dataset", "--output", "s", "--train", "1", "--val", "1", "--size", "64", "32", "--focal", "40",
     "--seed", "1"],
    ["tools.merge_pascal_json", "--inputs", "data/annotations/instances_val2017.json", "--output", "m.json"],
    ["tools.report", "run", "--output", "r.html", "--title", "t", "--data_dir", "data"],
    ["tools.train_full", "--data_path", "data", "--processes", "2", "--run", "r", "--device_target", "CPU",
     "--epochs", "2"],
    ["tools.voc_to_coco", "--voc_dir", "voc", "--split", "test", "--output", "v.json", "--classes", "dog,cat",
     "--image_dir", "i"],
    ["tools.import_dataset", "--input", "voc", "--output", "imported", "--format", "voc", "--val_fraction", "0.5",
     "--seed", "1", "--zero_based"],
    ["tools.benchmark", "--runs", "1", "--only", "decode", "--json", "b.json"],
    ["scripts.ascend_distributed_launcher.get_distribute_train_cmd", "--mindrecord_dir", "records",
     "--hccl_config_dir", "hccl.json", "--device_target", "CPU", "--cmd_file", "c.sh",
     "--hyper_parameter_config_dir", "ini.ini"],
]


def run(script, args):
    """Call a script's main() with these arguments."""
    command = f"src.commands.{script.rpartition('.')[2]}"
    main = importlib.import_module(command if importlib.util.find_spec(command) else script).main
    with mock.patch.object(sys, "argv", [script, *args]), contextlib.redirect_stderr(io.StringIO()):
        main()


def run_in_copy(base, path, script, args, replaced=None):
    """Run a script in a copy of the base folder next to path, which replaces the file `replaced`; return "result"."""
    from src.core.interrupts import Interrupted

    folder = os.path.join(os.path.dirname(path), "a", "b")
    shutil.copytree(base, folder)
    os.mkfifo(os.path.join(folder, "pipe"))
    if replaced:
        shutil.copy(path, os.path.join(folder, replaced))
    try:
        os.chdir(folder)
        run(script, args)
    except (SystemExit, Interrupted) as error:
        if isinstance(error, SystemExit) and error.code not in (0, 1, 2, None):
            raise
    finally:
        os.chdir(os.path.dirname(base))
    return "result"


def command_lines(folder):
    """Command lines of the entry scripts and tools, run in a folder with all files that they name."""
    from src.model_utils.config import load_defaults

    use_stubs()
    base = make_base(folder)

    def use(path):
        with open(path, encoding="utf-8") as file:
            script, *args = json.load(file)
        return run_in_copy(base, path, script, args)

    originals = {f"{number}.json": json.dumps(command).encode() for number, command in enumerate(COMMANDS)}
    return originals, use, functools.partial(hostile.hostile_arguments, defaults=load_defaults()[0])


def written_files(folder):
    """The JSON files that scripts write, read by the scripts that use them."""
    use_stubs()
    base = make_base(folder)
    readers = {
        "m.json": ["eval", "tools.predict", "export", "tools.convert_centernet"],
        "e.json": ["tools.infer_mindir", "tools.contact_sheet"], "meta/inputs.json": ["postprocess"],
        "run/val/metrics.json": ["tools.report"], "run/val/val_pred_result.json": ["tools.report"],
        "run/train_record.jsonl": ["tools.report"], "records/coco_det.train.mind.manifest.json": ["train"],
        "hccl.json": ["scripts.ascend_distributed_launcher.get_distribute_train_cmd", "tools.make_rank_table"],
    }
    originals = {}
    for name in readers:
        with open(os.path.join(base, name), "rb") as file:
            originals[name.replace("/", " ")] = file.readline() if name.endswith("l") else file.read()

    def use(path):
        name = os.path.basename(path).replace(" ", "/")
        for script in readers[name]:
            commands = [args for first, *args in COMMANDS if first == script]
            run_in_copy(base, path, script, commands[-1 if script == "tools.make_rank_table" else 0], name)
            shutil.rmtree(os.path.join(os.path.dirname(path), "a"))
        return "result"

    return originals, use
