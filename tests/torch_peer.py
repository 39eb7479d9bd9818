"""The networks in PyTorch (torch_reference.py, torch_family.py), for tools/benchmark.py --peer."""
import functools

import numpy as np
import torch

from tests import torch_family, torch_reference, torch_tasks

CLASSES = 80
NETWORKS = {  # by net_config.arch
    "": lambda: torch_reference.CenterNet(CLASSES), "dla_34": lambda: torch_family.DLANet(CLASSES),
    "resdcn_101": lambda: torch_reference.CenterNet(CLASSES, block=torch_reference.Bottleneck, stacks=(3, 4, 23, 3)),
    "res_18": lambda: torch_reference.CenterNet(CLASSES, dcn=False),
    "hourglass": lambda: torch_family.HourglassNet(CLASSES),
}


def peers(part):
    """Return {"PyTorch ...": make} for the parts that exist in PyTorch."""
    makers = {"train": make_training, "infer": make_inference, "decode": make_decoding, "family": make_of_family,
              **{task: functools.partial(make_of_task, task=task) for task in torch_tasks.HEADS}}
    return {f"PyTorch {torch.__version__}": makers[part]} if part in makers else {}


def make_of_family(case, inputs):
    """Inference or training of another architecture, whose name precedes the case."""
    arch, _, case = case.partition(": ")
    return (make_inference if case.startswith("inference") else make_training)(case, inputs, arch)


def make_training(case, arrays, arch=""):
    """A training step on a batch: image, hm, ind, reg, reg_mask, wh, wh_mask."""
    if not case.startswith("training step"):
        return None
    network = NETWORKS[arch]().train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-6)
    image, hm, ind, reg, reg_mask, wh, _ = map(torch.tensor, arrays)

    def step():
        optimizer.zero_grad()
        torch_reference.detection_loss(*network(image), hm, ind.long(), reg, reg_mask, wh)[0].backward()
        optimizer.step()

    return step


def make_of_task(case, inputs, task):
    """Inference, whose decoding is detection's, or a training step on a batch {name: array} of a task's network."""
    arch, _, case = case.partition(": ")
    network = torch_tasks.TaskNet(arch, torch_tasks.HEADS[task])
    if case.startswith("inference"):
        network, image = network.eval(), torch.tensor(inputs)

        def infer():
            with torch.no_grad():
                maps = network(image)
                boxes([maps[name] for name in ("hm", "wh", "reg")])

        return infer
    batch = {name: torch.tensor(value) for name, value in inputs.items()}
    optimizer = torch.optim.Adam(network.train().parameters(), 1e-6)

    def step():
        optimizer.zero_grad()
        torch_tasks.LOSSES[task](network(batch["image"]), batch).backward()
        optimizer.step()

    return step


def best(heat):
    """The 100 best peaks of heatmaps [N, C, H, W]."""
    peaks = heat * (torch.nn.functional.max_pool2d(heat, 3, 1, 1) == heat)
    return torch.topk(peaks.flatten(1), 100)


def boxes(maps):
    """The network's last three maps, heatmap, sizes and offsets -> boxes with scores [N, 100, 5]."""
    heat, size, offset = maps[-3:]
    return decoded(torch.sigmoid(heat), size, offset)


def decoded(heat, wh, reg):
    """Maps -> boxes with scores [N, 100, 5]."""
    scores, places = best(heat)
    pixels = places % (heat.shape[2] * heat.shape[3])
    size, offset = (values.flatten(2).gather(2, pixels[:, None].expand(-1, 2, -1)) for values in (wh, reg))
    x, y = pixels % heat.shape[3] + offset[:, 0], pixels // heat.shape[3] + offset[:, 1]
    return torch.stack([x - size[:, 0] / 2, y - size[:, 1] / 2, x + size[:, 0] / 2, y + size[:, 1] / 2, scores], 2)


def make_inference(case, batch, arch=""):
    """The network with its best boxes."""
    network = NETWORKS[arch]().eval()
    tensor = torch.tensor(batch)

    def infer():
        with torch.no_grad():
            boxes(network(tensor))

    return infer


def make_compiled(case, batch):
    """The same, compiled as for deployment: frozen weights, channels last."""
    from torch._inductor import config

    config.freezing = True
    network = NETWORKS[""]().eval().to(memory_format=torch.channels_last)
    tensor = torch.tensor(batch).to(memory_format=torch.channels_last)
    compiled = torch.compile(lambda images: boxes(network(images)))

    def infer():
        with torch.no_grad():
            compiled(tensor)

    return infer


def make_decoding(case, inputs):
    """Decoding of the best peaks with their boxes."""
    heat, wh, reg = (torch.tensor(np.ascontiguousarray(array)) for array in inputs)

    return lambda: decoded(heat, wh, reg)
