"""Objects with keypoints, such as people and their joints (paper, section 4.2)."""
from ..base import Task
from ..detection import DETECTION

POSE = Task(
    name="pose", heads=("hm", "wh", "hps", "reg", "hm_hp", "hp_offset"), class_heads=("hm", "hps", "hm_hp"),
    losses={"hm_loss": "heatmap", "hp_loss": "keypoints", "hm_hp_loss": "keypoint heatmaps",
            "hp_offset_loss": "keypoint offset", "wh_loss": "size (before its weight)", "off_loss": "offset"},
    metrics={
        "AP": "keypoints, OKS 0.50 to 0.95", "AP50": "keypoints, OKS 0.50", "AP75": "keypoints, OKS 0.75",
        "AP_medium": "keypoints of medium objects (32² to 96²)", "AP_large": "keypoints of large objects (above 96²)",
        "AR": "keypoints, 20 detections per image", "AR50": "OKS 0.50", "AR75": "OKS 0.75",
        "AR_medium": "medium objects", "AR_large": "large objects",
        "PCK_05": "keypoints within 5 % of their box's longer side", "PCK_10": "keypoints within 10 %",
        "PCK_20": "keypoints within 20 %",
        **{f"box_{name}": f"boxes, {words}" for name, words in DETECTION.metrics.items()},
    },
    package=__package__,
    optional_metrics=("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large",
                      "PCK_05", "PCK_10", "PCK_20", *(f"box_{name}" for name in DETECTION.optional_metrics)),
    annotations=("person_keypoints_{split}2017.json",),
    options=("net_config.dense_hp", "net_config.hm_hp", "net_config.reg_hp_offset", "net_config.hp_weight",
             "net_config.hm_hp_weight", "net_config.mse_loss", "net_config.reg_loss", "dataset_config.flip_idx",
             "dataset_config.rand_crop", "dataset_config.flip_prop", "dataset_config.aug_rot", "dataset_config.rotate",
             "eval_config.kpt_oks_sigmas", "eval_config.keypoints"),
    layers=("reg_offset", "hm_hp", "reg_hp_offset"), recorded={"dataset_config.flip_idx": "the pairs"},
)
