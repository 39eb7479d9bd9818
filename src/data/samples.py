"""Training samples as a configuration describes them: their layout, their augmentation, a batch of them. Needs no MindSpore."""
import dataclasses

import numpy as np

from ..tasks.detection.targets import Layout, Ranges, collate, make_sample, random_augmentation


def sample_layout(config, num_classes):
    """The targets.Layout that a configuration describes for a number of classes."""
    data, net = config.dataset_config, config.net_config
    return Layout(tuple(data.input_res_train), num_classes, data.max_objs, net.down_ratio, data.mean, data.std, data.eig_val, data.eig_vec,
                  net.mse_loss, net.dense_wh, net.cat_spec_wh)


def augmentation_ranges(config):
    """The targets.Ranges that a configuration describes."""
    return Ranges(*(getattr(config.dataset_config, field.name) for field in dataclasses.fields(Ranges)))


def augmented_batch(images, count, epoch, config, layout, heatmap_on_host):
    """The values of columns() for `count` images (BGR uint8, image id, boxes [M, 4], labels [M]), augmented as in that epoch."""
    out_w, out_h = layout.out_size
    hm = np.zeros((count, layout.num_classes, out_h, out_w), np.float32) if heatmap_on_host else None
    ranges, samples = augmentation_ranges(config), []
    for slot, (pixels, image_id, boxes, labels) in enumerate(images):
        rng = np.random.default_rng([config.seed, epoch, image_id])
        augmentation = random_augmentation(rng, pixels.shape[1::-1], layout.input_size, ranges)
        samples.append(make_sample(pixels, boxes, labels, augmentation, layout, None if hm is None else hm[slot]))
    return collate(samples, hm)
