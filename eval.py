"""Detect on the images of a COCO-format data set and score the detections."""
from src import errors
from src.mindspore_version import require_mindspore
from src.model_utils.config import get_config


def main():
    config = get_config(__doc__)
    print(config.summary(), flush=True)
    require_mindspore()
    from src.model_utils.moxing_adapter import modelarts

    with modelarts(config, "data_dir"):
        evaluate(config)


def evaluate(config):
    """Detect, score and write what config asks for."""
    from src.coco import find_split
    from src.side_file import adopt_evaluation, read_side_file

    description = read_side_file(config.load_checkpoint_path)
    try:
        split = find_split(config.data_dir, config.run_mode, config.dataset_config)
    except errors.UserError as error:
        raise errors.UserError(f"{error} (run_mode is {config.run_mode}, from {config.origin('run_mode')})") from error
    # MindSpore is slow to load, and not needed for --help, a wrong option or a wrong path.
    from src import evaluator
    from src.detector import load_detector
    from src.extensions import require_extensions
    from src.model_utils.device_adapter import set_device

    require_extensions()
    adopt_evaluation(config, description, "the side file")
    target = set_device(config.device_target, config.device_id, config.conv_allow_hf32, config.jit_level)
    detector = load_detector(config.load_checkpoint_path, config.eval_config, target, config.net_config.dcn_impl)
    evaluator.evaluate(detector, evaluator.read_part(split, detector.description, config), config)


if __name__ == "__main__":
    errors.run(main)
