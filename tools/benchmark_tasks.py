"""The "pose" part of tools/benchmark.py: training steps, inference and decoding with COCO's 17 keypoints."""
import os
import tempfile

from src.core.timing import Case, time_interleaved
from tools.benchmark_inputs import photograph, random_boxes, settings

NETWORKS = ("resdcn_18", "dlav0_34")


def people():
    """The metainfo of COCO's people."""
    from src.tasks.pose import keypoints

    category = {"id": 1, "name": "person", "keypoints": keypoints.COCO_NAMES}
    return {"classes": ["person"], "category_ids": [1], **keypoints.read_metainfo([category])}


def pose_part(runs):
    """Training steps next to PyTorch; inference, its share of decoding, and in ONNX Runtime."""
    import numpy as np

    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    batch = np.random.default_rng(0).standard_normal((1, 3, 512, 512)).astype(np.float32)
    for arch in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            yield from inference_cases(arch, batch, folder, runs)
    for arch in NETWORKS:
        yield training_case(arch, 8, 256)


def inference_cases(arch, batch, folder, runs):
    """MindSpore next to PyTorch, decoding next to all of it, ONNX Runtime next to PyTorch."""
    import mindspore as ms
    import onnxruntime

    from src.export.onnx_graph import Graph
    from src.export.onnx_model import build_model
    from src.network.centernet import build_detection, build_network
    from src.network.folding import fold_batch_norm
    from src.tasks.pose import POSE

    metainfo, net_config = people(), settings("--net_config.task", "pose", "--net_config.arch", arch).net_config
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
    path = os.path.join(folder, "pose.onnx")
    model = build_model(POSE, whole, False, Graph("grid_sample"), (1, *batch.shape[2:]), 6 + 3 * 17, {})
    with open(path, "wb") as file:
        file.write(model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    yield Case(f"{name}, ONNX Runtime", lambda: session.run(None, {"image": batch}), "ms", 1, batch)


def training_case(arch, batch_size, side):
    """A training step on images of four people each."""
    import mindspore as ms

    from src.network.centernet import build_network
    from src.training.engine import build_device_input, build_train_step
    from src.training.optimizer import build_optimizer

    config = settings("--net_config.task", "pose", "--net_config.arch", arch, "--dataset_config.max_objs", 32,
                      "--dataset_config.input_res_train", [side, side])
    network = build_network(config.net_config, people(), "composite")
    device_input = build_device_input(config, people(), True)
    step = build_train_step(network, config, build_optimizer(network, config.train_config, 100, 1), device_input)
    tensors = [ms.Tensor(array) for array in batch_of_people(config, batch_size)]
    arrays = {name: value.asnumpy() for name, value in device_input(*tensors).items()}
    step(*tensors)[0].asnumpy()  # compiles
    return Case(f"{arch}: training step, {batch_size} x {side}x{side}", lambda: step(*tensors)[0].asnumpy(), "ms", 1,
                arrays)


def batch_of_people(config, batch_size):
    """A batch of the input pipeline: arrays as in the task's targets.columns(True)."""
    import numpy as np

    from src.data.samples import collate, make_sample
    from src.tasks.augmentation import whole_image
    from src.tasks.pose import targets

    layout, samples = targets.layout_of(config, people()), []
    heatmaps = targets.empty_heatmaps(batch_size, layout)
    for seed in range(batch_size):
        boxes, _ = random_boxes(4, 640, 480, seed)
        share = np.random.default_rng(seed).random((4, 17, 2))
        points = np.concatenate([boxes[:, None, :2] + share * (boxes[:, 2:] - boxes[:, :2])[:, None],
                                 np.full((4, 17, 1), 2)], 2)
        objects = {"boxes": boxes, "labels": np.zeros(4, int), "keypoints": points.astype(np.float32).reshape(4, -1)}
        own = {name: maps[seed] for name, maps in heatmaps.items()}
        samples.append(make_sample(targets, photograph(seed=seed), objects, whole_image((640, 480), layout.input_size),
                                   layout, own))
    return collate(targets.columns(True), samples, heatmaps)
