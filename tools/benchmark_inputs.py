"""Inputs of the benchmarks: synthetic photographs, boxes, data sets, an untrained network. Slow imports are local."""
import contextlib
import io
import json
import os

CLASSES = 80
METAINFO = {"classes": [str(number) for number in range(CLASSES)]}


def photograph(width=640, height=480, seed=0):
    """A BGR uint8 image with smooth areas, edges and grain, so that its JPEG is about as large as a photograph's."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 40, width // 40, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        x, y, size = (int(value) for value in rng.integers((0, 0, 20), (width, height, 120)))
        cv2.circle(image, (x, y), size, tuple(int(value) for value in rng.integers(0, 255, 3)), -1, cv2.LINE_AA)
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def jpeg(image):
    """Encode an image as JPEG bytes."""
    import cv2

    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def random_boxes(count, width, height, seed=0):
    """Return (boxes [M, 4] x1, y1, x2, y2, labels [M]) of `count` objects of various sizes."""
    import numpy as np

    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(16), np.log(min(width, height) / 2), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([width, height]) - size)
    return np.hstack([corner, corner + size]).astype(np.float32), rng.integers(0, CLASSES, count).astype(np.int32)


def settings(*args):
    """The default configuration, changed by command-line arguments."""
    from src.model_utils.config import get_config

    return get_config("", [str(arg) for arg in args])


def write_coco(folder, count, width, height, boxes=8):
    """Write a COCO-format data set of `count` photographs; return its folder."""
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    images, annotations = [], []
    os.makedirs(os.path.join(folder, "train2017"))
    os.makedirs(os.path.join(folder, "annotations"))
    files = [jpeg(photograph(width, height, seed)) for seed in range(min(count, 16))]
    for image_id in range(1, count + 1):
        with open(os.path.join(folder, "train2017", f"{image_id}.jpg"), "wb") as file:
            file.write(files[image_id % len(files)])
        images.append({"id": image_id, "file_name": f"{image_id}.jpg", "width": width, "height": height})
        for (x1, y1, x2, y2), label in zip(*(array.tolist() for array in random_boxes(boxes, width, height, image_id))):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1,
                                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0})
    with open(os.path.join(folder, "annotations", "instances_train2017.json"), "w", encoding="utf-8") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)
    return folder


def convert(data_dir, mindrecord_dir, shards):
    """Convert the data set of write_coco into `shards` MindRecord files, without output."""
    from src.data import conversion
    from src.data.coco import find_split

    config = settings("--coco_data_dir", data_dir, "--mindrecord_dir", mindrecord_dir,
                      "--dataset_config.num_shards", shards, "--dataset_config.num_workers", 2)
    with contextlib.redirect_stdout(io.StringIO()):
        conversion.convert(find_split(data_dir, "train", config.dataset_config), config)


def convert_photographs(folder, count):
    """Write a data set of 640x480 photographs and its MindRecord files; return the folder of the latter."""
    records = os.path.join(folder, "records")
    convert(write_coco(os.path.join(folder, "coco"), count, 640, 480), records, 4)
    return records


def training_batch(config, batch_size, heatmap_on_host=True):
    """A batch of the input pipeline with eight objects per image: arrays as in targets.columns(heatmap_on_host)."""
    import numpy as np

    from src.data.samples import collate, make_sample
    from src.tasks.augmentation import ranges_of
    from src.tasks.detection import targets

    layout, ranges = targets.layout_of(config, METAINFO), ranges_of(config)
    heatmaps = targets.empty_heatmaps(batch_size, layout) if heatmap_on_host else {}
    samples = []
    for seed in range(batch_size):
        boxes, labels = random_boxes(8, 640, 480, seed)
        augmentation = targets.random_augmentation(np.random.default_rng(seed), (640, 480), layout.input_size, ranges)
        objects = {"boxes": boxes, "labels": labels}
        maps_of_image = {name: maps[seed] for name, maps in heatmaps.items()}
        samples.append(make_sample(targets, photograph(seed=seed), objects, augmentation, layout, maps_of_image))
    return collate(targets.columns(heatmap_on_host), samples, heatmaps)


def build_detector(*args):
    """An untrained Detector with 80 classes for inputs of any size; command-line arguments select its network."""
    import mindspore as ms

    from src.inference.detector import Detector
    from src.network.centernet import build_detection, build_network
    from src.network.folding import fold_batch_norm

    config = settings(*args)
    network = build_network(config.net_config, METAINFO, "composite")
    fold_batch_norm(network)
    graph = build_detection(network, config.net_config, METAINFO, 100, ms.nn.Identity())
    return Detector(graph, {"mean": config.dataset_config.mean, "std": config.dataset_config.std}, 4)
