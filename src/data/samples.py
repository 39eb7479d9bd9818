"""Training samples as a configuration describes them: their layout, their augmentation, a batch of them. Needs no MindSpore."""
import numpy as np

from ..tasks import task_of

MOST_IMAGES = 16  # of a batch that is drawn


def sample_layout(config, num_classes):
    """The Layout of the task's targets that a configuration describes for a number of classes."""
    return task_of(config.net_config).targets.layout_of(config, num_classes)


def augmented_batch(images, count, epoch, config, layout, heatmap_on_host):
    """The values of the task's columns for `count` images (BGR uint8, image id, and arrays of its objects), augmented as in that epoch."""
    targets = task_of(config.net_config).targets
    heatmaps = targets.empty_heatmaps(count, layout) if heatmap_on_host else None
    ranges, samples = targets.ranges_of(config), []
    for slot, (pixels, image_id, *objects) in enumerate(images):
        rng = np.random.default_rng([config.seed, epoch, image_id])
        augmentation = targets.random_augmentation(rng, pixels.shape[1::-1], layout.input_size, ranges)
        samples.append(targets.make_sample(pixels, *objects, augmentation, layout, None if heatmaps is None else heatmaps[slot]))
    return targets.collate(samples, heatmaps)
