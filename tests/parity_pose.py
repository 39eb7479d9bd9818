"""The rows of tests/parity.py for pose: DIR/tasks, files pose_*.npz and zoo_pose_network.npz.

A component is a function (vectors, folder of all golden vectors) that yields rows, listed in COMPONENTS by file.
"""
import functools
import os

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from src.data.samples import make_sample, sample_layout
from src.imaging.color import apply_color
from src.imaging.view import View
from src.model_utils.config import get_config
from src.network.centernet import Halves
from src.network.folding import fold_batch_norm
from src.tasks.pose import POSE, device, keypoints, results, targets
from src.weights import torch_weights
from tests import parity

NETWORKS = ("pose_resdcn_18", "pose_dla_34")  # of the original
NO_VECTORS = ("zoo_pose_names.json", *(f"{name}_shapes.json" for name in NETWORKS))


def network_rows(vectors, folder, name):
    """All heads of one of the original's networks, and the round trip of its weights; name is task_arch."""
    seed = int(vectors["seed"])
    state, recipe = parity.golden_weights(folder, seed, os.path.join("tasks", f"{name}_shapes.json"))
    pixels = Tensor(recipe["make_input"](seed, (1, 3, *vectors["size"])))
    for dcn_impl in ("native", "composite"):
        network = parity.converted_network(state, dcn_impl).set_train(False)
        for head, output in network(pixels)[0].items():
            yield parity.compare(f"{name}, {dcn_impl}: {head}", output.asnumpy(), vectors[head], parity.NETWORK)
    yield parity.round_trip(name, parity.weights_of(network), state)


def zoo_rows(vectors, folder):
    """All heads of the model zoo's network, and the round trip of its weights without the roots it does not use."""
    seed = int(vectors["seed"])
    state, recipe = parity.golden_weights(folder, seed, os.path.join("tasks", "zoo_pose_names.json"), "make_zoo_state")
    batch, _, height, width = vectors["hm"].shape
    pixels = Tensor(recipe["make_input"](seed, (batch, 3, 4 * height, 4 * width)))
    network = parity.converted_network(state, "native").set_train(False)
    used = {name: value for name, value in state.items()
            if not name.startswith(("network.dla_seg.dla.level3.root.", "network.dla_seg.dla.level4.root."))}
    yield parity.same_state("pose, model zoo", torch_weights.to_zoo(parity.weights_of(network))[0], used)
    for fold in ("not folded", "folded"):
        if fold == "folded" and (left := fold_batch_norm(network)):
            yield from parity.failed(f"pose, model zoo: {left} batch norms were not folded")
        for head, output in network(pixels)[0].items():
            ours = ops.sigmoid(output) if head in ("hm", "hm_hp") else output
            yield parity.compare(f"pose, model zoo, {fold}: {head}", ours.asnumpy(), vectors[head], parity.NETWORK)


def person():
    """The metainfo of COCO's people."""
    category = {"id": 1, "name": "person", "keypoints": keypoints.COCO_NAMES}
    return {"classes": ["person"], "category_ids": [1], **keypoints.read_metainfo([category])}


def options_of(*args):
    """The configuration of pose with these arguments."""
    return get_config("", ["--net_config.task", "pose", "--dataset_config.max_objs", "32", *args])


def sample_rows(vectors, folder, name):
    """Input and targets of a training sample."""
    config = options_of("--dataset_config.input_res_train", "[128, 128]", "--net_config.mse_loss", str(name == "mse"),
                        "--net_config.dense_hp", str(name == "dense_hp"))
    pixels, boxes, augmentation = parity.sample_of(vectors)
    objects = {"boxes": boxes, "labels": np.zeros(len(boxes), int),
               "keypoints": vectors["keypoints"].reshape(len(boxes), -1)}
    layout = sample_layout(config, person())
    heatmaps = {head: maps[0] for head, maps in targets.empty_heatmaps(1, layout).items()}
    sample = make_sample(targets, pixels, objects, augmentation, layout, heatmaps)
    view = apply_color(sample["image"], sample["color"])
    yield parity.compare(f"pose sample {name}: input", view[:, ::2, ::2], vectors["ret_input"], parity.USUAL,
                         parity.gray_level(config.dataset_config))
    for column in targets.columns(True)[2:]:
        theirs = f"ret_dense_{column}" if f"ret_dense_{column}" in vectors else f"ret_{column}"
        yield parity.compare(f"pose sample {name}: {column}", sample[column], vectors[theirs])


LOSSES = ("loss", "hm_loss", "hp_loss", "hm_hp_loss", "hp_offset_loss", "wh_loss", "off_loss")
LOSS_CASES = {"default": (), "sl1": ("reg_loss", "sl1"), "dense_hp": ("dense_hp", "true"), "mse": ("mse_loss", "true"),
              "no_hm_hp": ("hm_hp", "false")}


def loss_rows(vectors, folder):
    """All losses, and the gradients of their weighted sum with respect to the heads' outputs."""
    maps = {name: Tensor(vectors[f"map_{name}"]) for name in POSE.heads}
    for case, option in LOSS_CASES.items():
        config = options_of(*((f"--net_config.{option[0]}", option[1]) if option else ()))
        prefix = "dense_" if case == "dense_hp" else ""
        integers = ("ind", "hp_ind")
        batch = {name: Tensor(vectors[name].astype(np.int32 if name in integers else np.float32))
                 for name in ("hm", "hm_hp", "reg_mask", "wh", "reg", "hp_offset", "hp_mask", *integers)}
        batch |= {name: Tensor(vectors[prefix + name].astype(np.float32)) for name in ("hps", "hps_mask")}
        cell = device.build_loss(config.net_config)
        norms = cell.norms(batch)

        def losses(*values, cell=cell, batch=batch, norms=norms):
            found = cell(dict(zip(maps, values)), batch, norms)
            return found["loss"], found

        places = tuple(range(len(maps)))
        (_, found), gradients = ms.value_and_grad(losses, places, has_aux=True)(*maps.values())
        for name in LOSSES:
            yield parity.compare(f"pose loss, {case}: {name}", found[name].asnumpy(), vectors[f"{case}_{name}"])
        if f"{case}_grad_hm" in vectors:
            for name, gradient in zip(maps, gradients):
                yield parity.compare(f"pose loss, {case}: gradient of {name}", gradient.asnumpy(),
                                     vectors[f"{case}_grad_{name}"])


def in_our_order(people):
    """(box and score, class if any, joints [..., 17, 2]) of the original's rows."""
    return people[..., :5], people[..., 39:], people[..., 5:39].reshape(*people.shape[:-1], 17, 2)


def people_rows(name, ours, expected, tolerance=parity.USUAL):
    """Rows for detections [..., 6 + 3 x 17]: boxes, scores, classes and joints separately."""
    box, label, joints = in_our_order(expected)
    yield from parity.detection_rows(name, ours[..., :5 + label.shape[-1]], np.concatenate([box, label], -1), tolerance)
    places = ours[..., 6:].reshape(joints.shape[:-1] + (3,))[..., :2]
    yield parity.compare(f"{name}: joints", places, joints, tolerance)


def decode_rows(vectors, folder):
    """Decoding of maps to people in output pixels."""
    maps = {name: Tensor(vectors[name]) for name in ("wh", "reg", "hps", "hm_hp", "hp_offset")}
    maps["hm"] = Tensor(vectors["heat"])
    for case, option in (("dets", ""), ("dets_no_hp_offset", "reg_hp_offset"), ("dets_no_hm_hp", "hm_hp"),
                         ("dets_no_reg", "reg_offset")):
        config = options_of(*((f"--net_config.{option}", "false") if option else ()))
        ours = device.Decode(config.net_config, person(), int(vectors["k"]))(maps).asnumpy()
        yield from people_rows(f"pose decode, {case}", ours, vectors[case])


def flip_rows(vectors, folder):
    """The maps of mirror images as maps of the images."""
    metainfo = person()
    yield parity.compare("pose flip: pairs of joints", metainfo["keypoints"]["flip_idx"], vectors["flip_idx"],
                         parity.EXACT)
    for head in device.heads(options_of().net_config, metainfo):
        if head.name in vectors:
            ours = Halves(head).unmirrored(Tensor(vectors[head.name])).asnumpy()
            yield parity.compare(f"pose flip: {head.name}", ours, vectors[f"{head.name}_flipped"], parity.EXACT)


def our_rows(people):
    """The original's people [M, box, score, joints, class if any] as our rows [M, 6 + 3 x 17]."""
    box, label, joints = in_our_order(people)
    label = label if label.shape[-1] else np.zeros((len(people), 1))
    return results.with_points(np.hstack([box, label]), np.concatenate([joints, np.ones((len(people), 17, 1))], 2))


def post_process_rows(vectors, folder):
    """People in the pixels of the original image."""
    for case in vectors.cases("dets"):
        size = float(vectors[f"s_{case}"].ravel()[0])
        view = View(vectors[f"c_{case}"], size, tuple(vectors[f"out_hw_{case}"]), 1.0)
        ours = results.to_image(our_rows(vectors[f"dets_{case}"][0]), view)
        yield from people_rows(f"pose post-processing {case}", ours, vectors[f"people_{case}"])


def soft_nms_rows(vectors, folder):
    """The kept people, in their final order."""
    kept = results.merge([our_rows(vectors["people"])], True, len(vectors["people"]))
    yield from people_rows("pose soft-NMS", kept, vectors["kept"], parity.SOFT_NMS)


SAMPLES = ("plain", "crop", "crop_flip", "dense_hp", "mse", "rotated")
COMPONENTS = {
    **{f"pose_sample_{name}.npz": functools.partial(sample_rows, name=name) for name in SAMPLES},
    "pose_losses.npz": loss_rows, "pose_decode.npz": decode_rows, "pose_flip.npz": flip_rows,
    "pose_post_process.npz": post_process_rows, "pose_soft_nms.npz": soft_nms_rows,
    **{f"{name}.npz": functools.partial(network_rows, name=name) for name in NETWORKS},
    "zoo_pose_network.npz": zoo_rows,
}
