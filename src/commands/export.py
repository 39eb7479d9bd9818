"""Export a checkpoint as a MindIR, ONNX or (on Ascend) AIR model that outputs decoded detections."""
from ..core import errors
from ..core.console import LOG, show
from ..core.project import next_steps
from ..model_utils.config import Config, get_config
from ..model_utils.mindspore_version import require_mindspore


def main() -> None:
    config = get_config(__doc__, script="export")
    LOG.info(config.summary())
    require_mindspore()
    from ..model_utils.moxing_adapter import modelarts

    with modelarts(config, None):
        export(config)


def export(config: Config) -> None:
    """Write the file that config selects."""
    from ..weights.run_folder import resolve_checkpoint_alias
    from ..weights.side_file import adopt_evaluation, read_side_file

    options = config.export_config
    options.ckpt_file = resolve_checkpoint_alias(options.ckpt_file)
    description = read_side_file(options.ckpt_file, "checkpoint (--export_config.ckpt_file)")
    # Slow to load, and not needed for --help, a wrong option or a wrong path.
    from ..inference.detector import export_detector, export_onnx, load_detector, require_room
    from ..inference.models import is_exported, uses_of
    from ..model_utils.combinations import unused_in_export
    from ..model_utils.device_adapter import set_device
    from ..network.architectures import check_input

    require_room(options)
    LOG.info(adopt_evaluation(config, description, "the side file"))
    for sentence in unused_in_export(config, description["arch"]):
        LOG.info(sentence)
    if not config.eval_config.keep_res:
        config.take({"export_config.input_res": config.dataset_config.input_res_test},
                    config.origin("dataset_config.input_res_test"))
    if options.export_format != "ONNX" or not options.onnx_dynamic:
        source = "" if config.eval_config.keep_res else ", from dataset_config.input_res_test,"
        check_input(description, options.input_res, f"export_config.input_res{source}")
    target = set_device(config.device_target, config.device_id, config.conv_allow_hf32, config.jit_level)
    if options.export_format == "AIR" and target != "Ascend":
        raise errors.UserError("export_format AIR requires an Ascend device, and this machine has none; use MINDIR")
    from_bytes = options.input_type == "uint8"
    detector = load_detector(options.ckpt_file, description, config.eval_config, target, config.net_config.dcn_impl,
                             from_bytes, config.use_ema)
    LOG.info(f"loaded {options.ckpt_file}{detector.weights}")
    write = export_onnx if options.export_format == "ONNX" else export_detector
    path = write(detector, options, config.eval_config, show)
    if is_exported(path):  # AIR files are for other programs
        LOG.info(next_steps(*uses_of(path)))
