"""Write validation images as input files for offline (Ascend 310) inference, along with metadata for postprocess.py."""
from typing import TYPE_CHECKING, Any

from ..core import interrupts
from ..core.console import LOG, log_skipped, show
from ..core.errors import UserError
from ..model_utils.config import Config, get_config

if TYPE_CHECKING:
    import numpy as np

    from ..imaging.view import View


def planned_export(config: Config) -> dict:
    """What an export of this configuration takes as its input, and its K."""
    options = config.export_config
    return {"mean": config.dataset_config.mean, "std": config.dataset_config.std, "input_res": options.input_res,
            "input_type": options.input_type, "down_ratio": config.net_config.down_ratio, "K": config.eval_config.K}


def main() -> None:
    config = get_config(__doc__, script="preprocess")
    LOG.info(config.summary())
    from ..data import coco as coco_files
    from ..inference.models import is_exported, open_model
    from ..network.architectures import check_detected_input, network_facts
    from ..tasks import task_of

    if not config.predict_dir:
        raise UserError("no folder for the inputs given (--predict_dir)")
    if config.eval_config.multi_scales != [1.0]:
        raise UserError(f"eval_config.multi_scales is {config.eval_config.multi_scales}; "
                        "offline inference supports only [1.0]")
    description = open_model(config.mindir_path).description if config.mindir_path else None
    task = task_of(description) if description else coco_files.chosen_task(config)
    split = coco_files.find_split(config.val_data_dir, "val", config.dataset_config, "--val_data_dir", task)
    if description and not is_exported(config.mindir_path):
        raise UserError(f"mindir_path is not an exported file (.mindir or .onnx): {config.mindir_path}")
    if not description or description["input_res"] is None:
        facts = description or network_facts(config.net_config.as_dict())
        check_detected_input(facts, config.export_config.input_res, "export_config.input_res")
        if description:
            description["input_res"] = config.export_config.input_res
    # Slow to load, and not needed for --help, a wrong option or a wrong path.
    from ..imaging.reading import read_image
    from ..inference.offline import write_inputs
    from ..native.extensions import require_extensions

    require_extensions()
    if description:
        config.set("net_config.task", task_of(description).name, config.mindir_path)
        config.take(description["evaluation"], config.mindir_path)
    coco = coco_files.read_for(config, split)
    task = task_of(config.net_config)
    metainfo = coco_files.metainfo_of(coco, task)
    coco_files.check_expected(config, metainfo["classes"], metainfo["category_ids"], split.annotation)
    if description:
        coco_files.check_classes(description, coco, split.annotation)
    else:
        metainfo = task.targets.configured(metainfo, config)
        description = {"task": task.name, **metainfo, **planned_export(config)}
    images = coco_files.image_list(split, coco)
    coco_files.log_notes(coco)
    sizes = {info["id"]: coco_files.image_size(info) for info in coco.dataset["images"]}

    def load(image_id: Any, path: str) -> "np.ndarray":
        return read_image(path, sizes[image_id], config.dataset_config.max_pixels)

    def place(image_id: int, view: "View") -> "View":
        return task.results.placed(view, task.results.camera_of(coco.imgs[image_id]), description, config.eval_config)

    try:
        skipped = write_inputs(config.predict_dir, images, description, config.dataset_config.num_workers, load, place)
    except KeyboardInterrupt:
        raise interrupts.Interrupted("no inputs are written; run the same command to start over") from None
    log_skipped(skipped)
    width, height = description["input_res"]
    show(f"{len(images) - len(skipped)} {description['input_type']} inputs of {width}x{height} pixels, "
         f"{len(skipped)} skipped: {config.predict_dir}")
