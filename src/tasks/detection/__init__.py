"""Objects with a box and a class (paper, section 3)."""
from ..base import Task

DETECTION = Task(
    name="detection", heads=("hm", "wh", "reg"), class_heads=("hm", "wh"),
    losses={"hm_loss": "heatmap", "wh_loss": "size (before its weight)", "off_loss": "offset"},
    metrics={
        "AP": "IoU 0.50 to 0.95", "AP50": "IoU 0.50", "AP75": "IoU 0.75",
        "AP_small": "small objects (below 32² pixels)", "AP_medium": "medium objects (32² to 96²)",
        "AP_large": "large objects (above 96²)", "AR_1": "1 detection per image",
        "AR_10": "10 detections per image", "AR_100": "100 detections per image", "AR_small": "small objects",
        "AR_medium": "medium objects", "AR_large": "large objects",
    },
    package=__package__,
    optional_metrics=("AP_small", "AP_medium", "AP_large", "AR_small", "AR_medium", "AR_large"),
    options=("net_config.dense_wh", "net_config.norm_wh", "net_config.cat_spec_wh", "net_config.mse_loss",
             "net_config.reg_loss", "dataset_config.rand_crop", "dataset_config.flip_prop", "dataset_config.aug_rot",
             "dataset_config.rotate"),
    layers=("cat_spec_wh", "reg_offset"),
)
