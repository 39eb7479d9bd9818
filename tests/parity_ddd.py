"""The rows of tests/parity.py for 3D boxes: DIR/tasks, files ddd_*.npz and kitti_scores.json."""
import functools
import json

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.data.objects import ANY_SIZE, usable_objects
from src.data.samples import make_sample, sample_layout
from src.imaging import camera
from src.imaging.color import apply_color
from src.imaging.geometry import affine_matrix
from src.imaging.view import View, whole_view
from src.model_utils.config import get_config
from src.tasks import rows as row
from src.tasks.augmentation import Augmentation
from src.tasks.ddd import DDD, categories, device, kitti, results, targets
from tests import parity
from tests.parity_pose import network_rows

NO_VECTORS = ("ddd_dla_34_shapes.json",)
METAINFO = {"classes": list(categories.CLASSES), "category_ids": [1, 2, 3], **targets.read_metainfo([])}
CALIB = METAINFO["camera"]["matrix"]


def options_of(*args):
    """The configuration of 3D boxes with these arguments: the original's normalization and number of objects."""
    mean, std = "[0.485, 0.456, 0.406]", "[0.229, 0.224, 0.225]"
    return get_config("", ["--net_config.task", "ddd", "--dataset_config.max_objs", "50", "--dataset_config.mean", mean,
                           "--dataset_config.std", std, *args])


def sample_rows(vectors, folder, name):
    """Input and targets of a training sample. Objects are compared in order; the original leaves gaps at ignored ones,
    which its augmentation moves, too."""
    pixels = vectors["image"]
    config = options_of("--dataset_config.input_res_train", "[320, 96]")
    entries = [{"id": 1, "name": "Pedestrian"}, *({"id": number, "name": name}
                                                  for number, name in enumerate(categories.KITTI[1:], 2))]
    columns = (vectors["boxes_xywh"], vectors["category_id"], vectors["alpha"], vectors["depth"], vectors["dim"])
    found = [{"id": number, "image_id": 1, "bbox": box.tolist(), "category_id": int(category), "alpha": float(alpha),
              "depth": float(depth), "dim": dim.tolist(), "iscrowd": 0}
             for number, (box, category, alpha, depth, dim) in enumerate(zip(*columns), 1)]
    _, found = targets.select(entries, found)
    for entry in found:
        targets.check_annotation(entry, METAINFO, {"calib": CALIB})
    objects, problems = usable_objects(found, ANY_SIZE, DDD, METAINFO)
    yield parity.compare(f"ddd sample {name}: objects left out", len(problems), 0, parity.EXACT)
    options, size = config.dataset_config, pixels.shape[1::-1]
    center, width = whole_view(*size, (320, 96), sees_all=False)
    if moved := bool(vectors["train"]):
        center, width = targets.moved_view(center, width, size, vectors["draws"], options.scale, options.shift)
    else:
        yield parity.compare(f"ddd sample {name}: draws", len(vectors["draws"]), 0, parity.EXACT)
    layout = sample_layout(config, METAINFO)
    heatmaps = {head: maps[0] for head, maps in targets.empty_heatmaps(1, layout).items()}
    sample = make_sample(targets, pixels, objects, Augmentation(center, width, moved=moved), layout, heatmaps)
    view = apply_color(sample["image"], sample["color"])
    yield parity.compare(f"ddd sample {name}: input", view[:, ::2, ::2], vectors["ret_input"], parity.USUAL,
                         parity.gray_level(options))
    yield parity.compare(f"ddd sample {name}: hm", sample["hm"], vectors["ret_hm"])
    ours, theirs = sample["rot_mask"] == 1, vectors["ret_rot_mask"] == 1
    yield parity.compare(f"ddd sample {name}: empty places", np.abs(sample["wh"][~ours]).sum(), 0, parity.EXACT)
    for column in targets.columns(True)[3:]:
        yield parity.compare(f"ddd sample {name}: {column}", sample[column][ours], vectors[f"ret_{column}"][theirs])


LOSSES = ("loss", "hm_loss", "dep_loss", "dim_loss", "rot_loss", "wh_loss", "off_loss")
LOSS_CASES = {"default": (), "no_bbox": ("--net_config.reg_bbox", "false"),
              "no_offset": ("--net_config.reg_offset", "false")}


def loss_rows(vectors, folder):
    """All losses, and the gradients of their weighted sum with respect to the heads' outputs."""
    maps = {name: Tensor(vectors[f"map_{name}"]) for name in DDD.heads}
    batch = {name: Tensor(vectors[name].astype(np.int32 if name == "ind" else np.float32))
             for name in targets.columns(True)[2:]}
    for case, option in LOSS_CASES.items():
        cell = device.build_loss(options_of(*option).net_config)
        norms = cell.norms(batch)

        def losses(*values, cell=cell, norms=norms):
            found = cell(dict(zip(maps, values)), batch, norms)
            return found["loss"], found

        (_, found), gradients = ms.value_and_grad(losses, tuple(range(len(maps))), has_aux=True)(*maps.values())
        for name in LOSSES:
            yield parity.compare(f"ddd loss, {case}: {name}", found[name].asnumpy(), vectors[f"{case}_{name}"])
        if f"{case}_grad_hm" in vectors:
            for name, gradient in zip(maps, gradients):
                yield parity.compare(f"ddd loss, {case}: gradient of {name}", gradient.asnumpy(),
                                     vectors[f"{case}_grad_{name}"])


def in_our_order(found):
    """The original's rows [..., x, y, score, rot 8, depth, dim 3, (w, h,) class] as rows of device.Decode."""
    center, half = found[..., :2], found[..., 15:-1] / 2
    half = half if half.shape[-1] else np.zeros_like(center)
    return np.concatenate([center - half, center + half, found[..., 2:3], found[..., -1:], found[..., 3:15]], -1)


def decode_rows(vectors, folder):
    """Decoding of maps to objects in output pixels."""
    heat, rot, depth, dim, wh, reg = (Tensor(vectors[name]) for name in ("heat", "rot", "dep", "dim", "wh", "reg"))
    for case, sizes, offset in (("dets", wh, reg), ("dets_no_wh", Tensor(np.zeros(wh.shape, np.float32)), reg),
                                ("dets_no_reg", wh, None)):
        ours = device.decode(heat, rot, depth, dim, sizes, offset, int(vectors["k"])).asnumpy()
        expected = in_our_order(vectors[case])
        for name, columns in (("box, score and class", slice(0, 6)), ("rot", slice(6, 14)),
                              ("depth and dim", slice(14, 18))):
            yield parity.compare(f"ddd decode, {case}: {name}", ours[..., columns], expected[..., columns])


def post_process_rows(vectors, folder):
    """Objects in the pixels of the original image and in meters.

    The original maps an output size to the image like a point, with the shift between the two centers: a mistake that
    is small for KITTI's images, and is undone here. Its alpha may be below -pi.
    """
    calib, out_hw = vectors["calib"].astype(np.float64), tuple(vectors["out_hw"].tolist())
    view = View(vectors["c"], float(vectors["s"][0]), out_hw, 1.0, camera=calib)
    ours = results.to_image(in_our_order(vectors["dets"][0]), view)
    ours = ours[np.argsort(row.labels(ours), kind="stable")]
    theirs = vectors["rows"]
    shift = affine_matrix(vectors["c"], view.width, 0, out_hw[::-1], inverse=True)[:, 2]
    boxes = theirs[:, 1:5] + np.concatenate([shift, -shift]) / 2
    found, alpha = results.boxes_3d_of(ours), row.column(ours, "alpha", results.COLUMNS)
    for name, values, expected in (
            ("box", row.boxes(ours), boxes), ("score", row.scores(ours), theirs[:, 12]),
            ("class", row.labels(ours), theirs[:, 13]), ("alpha", alpha, camera.wrapped(theirs[:, 0])),
            ("dim", found[:, 3:6], theirs[:, 5:8]), ("location", found[:, :3], theirs[:, 8:11]),
            ("rotation_y", found[:, 6], theirs[:, 11])):
        yield parity.compare(f"ddd post-processing: {name}", values, expected)


def geometry_rows(vectors, folder):
    """Corners of 3D boxes, their pixels, angles, and a corner's pixel taken back at the depth of the location."""
    calib, location = vectors["calib"].astype(np.float64), vectors["location"]
    corners = camera.corners(vectors["dim"], location, vectors["rotation_y"])
    yield parity.compare("ddd geometry: corners", corners, vectors["corners"])
    yield parity.compare("ddd geometry: pixels", camera.project(corners, calib), vectors["pixels"])
    alpha = camera.alpha_of(vectors["rotation_y"], vectors["center_x"], calib)
    yield parity.compare("ddd geometry: alpha", alpha, vectors["alpha"])
    back = camera.rotation_of(alpha, vectors["center_x"], calib)
    yield parity.compare("ddd geometry: rotation_y", back, camera.wrapped(vectors["rotation_y"]))
    places = camera.unproject(vectors["pixels"][:, 0], location[:, 2], calib)
    yield parity.compare("ddd geometry: unprojected", places, vectors["unprojected"])


def kitti_rows(path):
    """The scores that KITTI's own program computes, in percent."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    labels, detections = ([kitti.parse(text) for text in content[name].values()] for name in ("labels", "detections"))
    found = {name: kitti.average_precision(labels, detections, name, 0.7 if name == "car" else 0.5)
             for name in ("car", "pedestrian", "cyclist")}
    curves = {f"{name} {metric} {level}": curve for name, metrics in found.items() for metric, levels in metrics.items()
              for level, curve in zip(kitti.LEVELS, levels)}
    known = content["precision"]
    yield parity.compare("KITTI: names of the curves", sorted(curves) == sorted(known), True, parity.EXACT)
    for name in sorted(known):
        yield parity.compare(f"KITTI: precision, {name}", curves[name], known[name], parity.USUAL, 1e-4)
        for positions, value in content["AP"][name].items():
            ours = 100 * kitti.ap(curves[name], int(positions.removeprefix("AP")))
            yield parity.compare(f"KITTI: AP, {name}, {positions}", ours, value, parity.USUAL, 0.01)


COMPONENTS = {
    **{f"ddd_sample_{name}.npz": functools.partial(sample_rows, name=name) for name in ("plain", "shifted")},
    "ddd_losses.npz": loss_rows, "ddd_decode.npz": decode_rows, "ddd_post_process.npz": post_process_rows,
    "ddd_geometry.npz": geometry_rows, "ddd_dla_34.npz": functools.partial(network_rows, name="ddd_dla_34"),
    "kitti_scores.json": kitti_rows,
}
