"""3D boxes from one image: depth, dimensions and orientation of objects (paper, section 4.1)."""
from ..base import Task
from ..detection import DETECTION

CAR, MODERATE = "KITTI's overlaps: cars 0.7, others 0.5", "moderate"
DDD = Task(
    name="ddd", heads=("hm", "dep", "rot", "dim", "wh", "reg"), class_heads=("hm",),
    losses={"hm_loss": "heatmap", "dep_loss": "depth", "dim_loss": "dimensions", "rot_loss": "rotation",
            "wh_loss": "size (before its weight)", "off_loss": "offset"},
    metrics={
        "AP": f"3D boxes, {MODERATE}, {CAR}", "AP50": f"3D boxes, {MODERATE}, overlap 0.5",
        "AP_easy": "3D boxes, easy", "AP_hard": "3D boxes, hard", "AP_11": f"3D boxes, {MODERATE}, 11 recall positions",
        "BEV_AP": f"bird's-eye view, {MODERATE}", "BEV_AP50": f"bird's-eye view, {MODERATE}, overlap 0.5",
        "AOS": f"orientation, {MODERATE}",
        "box_AP_KITTI": f"boxes in the image, {MODERATE}", "depth_right": "found objects whose depth is within 5 %",
        **{f"box_{name}": f"boxes, {words}" for name, words in DETECTION.metrics.items()},
    },
    package=__package__,
    optional_metrics=("AP", "AP50", "AP_easy", "AP_hard", "AP_11", "BEV_AP", "BEV_AP50", "AOS", "box_AP_KITTI",
                      "depth_right", *(f"box_{name}" for name in DETECTION.optional_metrics)),
    annotations=("kitti_{split}.json", "kitti_3dop_{split}.json", "kitti_subcnn_{split}.json"),
    options=("net_config.dep_weight", "net_config.dim_weight", "net_config.rot_weight", "net_config.reg_bbox",
             "dataset_config.aug_ddd", "eval_config.depth_by_focal"),
    evaluation=("depth_by_focal",), layers=("reg_offset", "reg_bbox"), sees_all=False,
    required={"eval_config.keep_res": False, "eval_config.flip_test": False, "eval_config.multi_scales": [1.0]},
)
