"""The "pose" and "ddd" parts of tools/benchmark.py: training steps, inference, decoding of tasks beside detection."""
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from src.core.timing import Case, time_interleaved
from tools.benchmark_inputs import photograph, random_boxes, settings


@dataclass
class Subject:
    """What is measured of a task: the architectures; sizes (width, height) of inference and training, and the latter's
    batch size; max_objs; metainfo(), and objects(boxes, rng), those of boxes [M, 4]."""

    networks: tuple[str, ...]
    inference: tuple[int, int]
    training: tuple[int, int]
    batch_size: int
    max_objs: int
    metainfo: Callable[[], dict]
    objects: Callable[[Any, Any], dict]


def people():
    """The metainfo of COCO's people."""
    from src.tasks.pose import keypoints

    category = {"id": 1, "name": "person", "keypoints": keypoints.COCO_NAMES}
    return {"classes": ["person"], "category_ids": [1], **keypoints.read_metainfo([category])}


def keypoints_of(boxes, rng):
    """Objects with COCO's keypoints anywhere in their boxes."""
    import numpy as np

    share = rng.random((len(boxes), 17, 2))
    points = np.concatenate([boxes[:, None, :2] + share * (boxes[:, 2:] - boxes[:, :2])[:, None],
                             np.full((len(boxes), 17, 1), 2)], 2)
    return {"keypoints": points.astype(np.float32).reshape(len(boxes), -1)}


def kitti():
    """The metainfo of KITTI."""
    from src.tasks.ddd import categories, targets

    return {"classes": list(categories.CLASSES), "category_ids": [1, 2, 3], **targets.read_metainfo([])}


def boxes_3d_of(boxes, rng):
    """Objects with any 3D boxes."""
    import numpy as np

    count = len(boxes)
    return {"depth": rng.uniform(5, 60, (count, 1)), "alpha": rng.uniform(-3, 3, (count, 1)),
            "dim": rng.uniform(1, 4, (count, 3)), "ignored": np.zeros((count, 1))}


SUBJECTS = {
    "pose": Subject(("resdcn_18", "dlav0_34"), (512, 512), (256, 256), 8, 32, people, keypoints_of),
    "ddd": Subject(("resdcn_18", "dla_34"), (1280, 384), (640, 192), 4, 50, kitti, boxes_3d_of),
}


def task_part(task, runs):
    """Training steps next to PyTorch; inference, its share of decoding, and in ONNX Runtime."""
    import numpy as np

    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    subject = SUBJECTS[task]
    batch = np.random.default_rng(0).standard_normal((1, 3, *subject.inference[::-1])).astype(np.float32)
    for arch in subject.networks:
        with tempfile.TemporaryDirectory() as folder:
            yield from inference_cases(task, arch, batch, folder, runs)
    for arch in subject.networks:
        yield training_case(task, arch)


def inference_cases(task, arch, batch, folder, runs):
    """MindSpore next to PyTorch, decoding next to all of it, ONNX Runtime next to PyTorch."""
    import mindspore as ms
    import onnxruntime

    from src.export.onnx_graph import Graph
    from src.export.onnx_model import build_model
    from src.network.centernet import build_detection, build_network
    from src.network.folding import fold_batch_norm
    from src.tasks import TASKS
    from src.tasks.rows import width

    metainfo = SUBJECTS[task].metainfo()
    net_config = settings("--net_config.task", task, "--net_config.arch", arch).net_config
    network = build_network(net_config, metainfo, "composite")
    fold_batch_norm(network)
    whole = build_detection(network, net_config, metainfo, 100, ms.nn.Identity())
    tensor, size = ms.Tensor(batch), "x".join(map(str, batch.shape[2:]))
    maps = whole.maps(tensor)
    functions = {"all": lambda: whole(tensor).asnumpy(), "decoding": lambda: whole.decode(maps).asnumpy()}
    name = f"{arch}: inference, 1 x {size}"
    yield Case(name, functions["all"], "ms", 1, batch)
    times = time_interleaved(functions, 3 * runs)
    yield Case("  share of decoding", unit="ratio",
               seconds=[one / other for one, other in zip(times["decoding"], times["all"])])
    path, row = os.path.join(folder, "model.onnx"), width(TASKS[task].results.output_columns(metainfo))
    model = build_model(TASKS[task], whole, False, Graph("grid_sample"), (1, *batch.shape[2:]), row, {})
    with open(path, "wb") as file:
        file.write(model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    yield Case(f"{name}, ONNX Runtime", lambda: session.run(None, {"image": batch}), "ms", 1, batch)


def training_case(task, arch):
    """A training step on images of four objects each."""
    import mindspore as ms

    from src.network.centernet import build_network
    from src.training.engine import build_device_input, build_train_step
    from src.training.optimizer import build_optimizer

    subject = SUBJECTS[task]
    config = settings("--net_config.task", task, "--net_config.arch", arch, "--dataset_config.max_objs",
                      subject.max_objs, "--dataset_config.input_res_train", list(subject.training))
    metainfo = subject.metainfo()
    network = build_network(config.net_config, metainfo, "composite")
    device_input = build_device_input(config, metainfo, True)
    step = build_train_step(network, config, build_optimizer(network, config.train_config, 100, 1), device_input)
    tensors = [ms.Tensor(array) for array in batch_of(task, config)]
    arrays = {name: value.asnumpy() for name, value in device_input(*tensors).items()}
    step(*tensors)[0].asnumpy()  # compiles
    size = "x".join(map(str, subject.training[::-1]))
    return Case(f"{arch}: training step, {subject.batch_size} x {size}", lambda: step(*tensors)[0].asnumpy(), "ms", 1,
                arrays)


def batch_of(task, config):
    """A batch of the input pipeline: arrays as in the task's targets.columns(True)."""
    import numpy as np

    from src.data.samples import collate, make_sample
    from src.tasks import TASKS
    from src.tasks.augmentation import whole_image

    subject, targets = SUBJECTS[task], TASKS[task].targets
    layout, samples = targets.layout_of(config, subject.metainfo()), []
    heatmaps = targets.empty_heatmaps(subject.batch_size, layout)
    for seed in range(subject.batch_size):
        boxes, _ = random_boxes(4, 640, 480, seed)
        added = subject.objects(boxes, np.random.default_rng(seed))
        objects = {"boxes": boxes, "labels": np.zeros(4, int), **added}
        own = {name: maps[seed] for name, maps in heatmaps.items()}
        samples.append(make_sample(targets, photograph(seed=seed), objects, whole_image((640, 480), layout.input_size),
                                   layout, own))
    return collate(targets.columns(True), samples, heatmaps)
