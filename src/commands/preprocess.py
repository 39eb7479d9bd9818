"""Write validation images as input files for offline (Ascend 310) inference, along with metadata for postprocess.py."""
from typing import TYPE_CHECKING, Any

from ..core import interrupts
from ..core.console import LOG, log_skipped, show
from ..core.errors import UserError
from ..model_utils.config import get_config

if TYPE_CHECKING:
    import numpy as np


def main() -> None:
    config = get_config(__doc__)
    LOG.info(config.summary())
    from ..data.coco import check_expected, find_split, image_list, image_size, log_notes, metainfo_of, read_coco
    from ..inference.models import is_exported, open_model
    from ..network.architectures import check_detected_input, network_facts
    from ..tasks import task_of

    if not config.predict_dir:
        raise UserError("no folder for the inputs given (--predict_dir)")
    if config.eval_config.multi_scales != [1.0]:
        raise UserError(f"eval_config.multi_scales is {config.eval_config.multi_scales}; "
                        "offline inference supports only [1.0]")
    split = find_split(config.val_data_dir, "val", config.dataset_config, "--val_data_dir")
    description = open_model(config.mindir_path).description if config.mindir_path else None
    if description and not is_exported(config.mindir_path):
        raise UserError(f"mindir_path is not an exported file (.mindir or .onnx): {config.mindir_path}")
    if not description or description["input_res"] is None:
        facts = description or network_facts(config.net_config.as_dict())
        check_detected_input(facts, config.export_config.input_res, "export_config.input_res")
        if description:
            description["input_res"] = config.export_config.input_res
    # Slow to load, and not needed for --help, a wrong option or a wrong path.
    from ..data.coco import check_classes
    from ..imaging.reading import read_image
    from ..inference.offline import write_inputs
    from ..native.extensions import require_extensions

    require_extensions()
    task = task_of(description or config.net_config)
    coco = read_coco(split.annotation, split.image_dir, task)
    metainfo = metainfo_of(coco, task)
    check_expected(config, metainfo["classes"], metainfo["category_ids"], split.annotation)
    if description:
        check_classes(description, coco, split.annotation)
    else:
        options = config.export_config
        description = {
            "task": task.name, **metainfo, "mean": config.dataset_config.mean, "std": config.dataset_config.std,
            "input_res": options.input_res, "input_type": options.input_type,
            "down_ratio": config.net_config.down_ratio, "K": config.eval_config.K,
        }
    images = image_list(split, coco)
    log_notes(coco)
    sizes = {info["id"]: image_size(info) for info in coco.dataset["images"]}

    def load(image_id: Any, path: str) -> "np.ndarray":
        return read_image(path, sizes[image_id], config.dataset_config.max_pixels)

    try:
        skipped = write_inputs(config.predict_dir, images, description, config.dataset_config.num_workers, load)
    except KeyboardInterrupt:
        raise interrupts.Interrupted("no inputs are written; run the same command to start over") from None
    log_skipped(skipped)
    width, height = description["input_res"]
    show(f"{len(images) - len(skipped)} {description['input_type']} inputs of {width}x{height} pixels, "
         f"{len(skipped)} skipped: {config.predict_dir}")
