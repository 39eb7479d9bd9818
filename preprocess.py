"""Write the validation images as input files for offline (Ascend 310) inference, and the metadata that postprocess.py needs."""
from src import errors
from src.errors import UserError
from src.model_utils.config import get_config


def main():
    config = get_config(__doc__)
    # Slow to load, and not needed for --help or a wrong option.
    from src import dataset, evaluation
    from src.inference import read_exported
    from src.offline import write_inputs
    from src.utils import log

    if not config.predict_dir:
        raise UserError("no folder for the inputs given (--predict_dir)")
    if config.eval_config.multi_scales != [1.0]:
        raise UserError(f"eval_config.multi_scales is {config.eval_config.multi_scales}; offline inference has one scale, [1.0]")
    split = dataset.find_split(config.val_data_dir, "val", config.dataset_config)
    coco = dataset.read_coco(split.annotation)
    if config.mindir_path:
        description = read_exported(config.mindir_path)
        evaluation.check_classes(description, coco, split.annotation)
    else:
        options = config.export_config
        description = {
            "classes": dataset.class_list(coco)[0], "mean": config.dataset_config.mean, "std": config.dataset_config.std,
            "input_res": options.input_res, "input_type": options.input_type,
            "down_ratio": config.net_config.down_ratio, "K": config.eval_config.K,
        }
    images = dataset.image_list(split, coco)
    skipped = write_inputs(config.predict_dir, images, description, config.dataset_config.num_workers)
    for problem in skipped:
        log(f"skipped {problem}")
    width, height = description["input_res"]
    log(f"{len(images) - len(skipped)} inputs of {description['input_type']} for {width}x{height}, {len(skipped)} skipped: "
        f"{config.predict_dir}")


if __name__ == "__main__":
    errors.run(main)
