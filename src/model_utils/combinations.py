"""Checks of parameter combinations, and parameters without effect; rules.py checks each parameter on its own."""
from collections.abc import Iterable
from typing import Any

from ..core.console import LOG
from ..core.errors import Problems, UserError
from ..network.architectures import check_detected_input, check_input, network_facts, resolved
from ..tasks import AUTO, TASKS, Task, metric_labels, task_of
from .local_adapter import launcher_variable
from .settings import Config

SECTIONS = {"optimizer": ("Adam", "AdamW", "SGD"), "lr_schedule": ("MultiDecay", "PolyDecay", "CosineDecay")}
Unused = list[tuple[Any, str, list[str]]]  # [(whether the condition holds, the condition, parameters without effect)]


def check_network(config: Config) -> None:
    """Raise UserError, with a line for each: an invalid network, a network that does not fit the training's input size,
    and a best_metric that the task does not have."""
    options, problems = config.net_config, Problems()
    with problems:
        _check_metric(config, metric_labels() if options.task == AUTO else task_of(options).metrics)
    net_config = options.as_dict()
    with problems:
        resolved(net_config)
    with problems:
        check_input(network_facts(net_config), config.dataset_config.input_res_train, "dataset_config.input_res_train")
    with problems:
        if options.dense_wh and options.cat_spec_wh:
            raise UserError("net_config.dense_wh and cat_spec_wh are both true, but sizes are either dense or per "
                            "class; set one of them to false")
    problems.raise_all()


def _check_metric(config: Config, metrics: Iterable[str]) -> None:
    if config.best_metric not in metrics:
        raise UserError(f"best_metric is {config.best_metric!r} ({config.origin('best_metric')}); choose from "
                        f"{', '.join(metrics)}")


def settle_task(config: Config, task: Task, where: str) -> None:
    """Set net_config.task to the data's Task if it is AUTO; `where` names the data. Raises UserError for a best_metric
    that this task does not have."""
    if config.net_config.task != AUTO:
        return
    config.set("net_config.task", task.name, where)
    if task is not task_of({}):
        LOG.info(f"net_config.task is {task.name}, the task of {where} (converting with --net_config.task "
                 f"{task_of({}).name} keeps only its boxes)")
    _check_metric(config, task.metrics)


def check_schedule(train_config: Config) -> None:
    """Raise UserError for a learning rate that would rise."""
    name = train_config.lr_schedule
    options = getattr(train_config, name)
    end = getattr(options, "end_learning_rate", 0.0)
    if end > options.learning_rate:
        raise UserError(f"train_config.{name}.end_learning_rate {end} is above learning_rate {options.learning_rate}: "
                        "the rate would rise; lower the first, or raise the second")


def check_evaluation(config: Config, facts: dict[str, Any]) -> None:
    """Raise UserError for evaluation settings that do not fit each other or the network.

    facts are those of architectures.network_facts.
    """
    options, size = config.eval_config, config.dataset_config.input_res_test
    task = task_of(facts)
    for name, value in task.required.items():
        given = getattr(options, name.rpartition(".")[2])
        if given != value:
            raise UserError(f"{name} is {str(given).lower()} ({config.origin(name)}), but the task {task.name} needs "
                            f"{str(value).lower()}; set {name.rpartition('.')[2]} to that")
    if options.keep_res:
        return
    check_detected_input(facts, size, "dataset_config.input_res_test")
    if options.flip_test and size[0] % facts["stride"]:
        raise UserError(f"eval_config.flip_test needs a width that is a multiple of {facts['stride']}, so that the "
                        f"mirror image lies on the same grid; it is {size[0]} in dataset_config.input_res_test")


def part_of(config: Config) -> str:
    """The part of the data set that an evaluation detects in, "train", "val" or "test": split, or else run_mode's."""
    return config.split or config.run_mode


def is_scored(config: Config) -> bool:
    """Whether an evaluation scores its detections, if the part of the data set has annotations."""
    return config.run_mode == "val" and config.enable_eval


# ---------------------------------------------------------------- parameters without effect


def unused_in_training(config: Config) -> list[str]:
    """Messages about parameters that were set, but have no effect in a training with this configuration."""
    network, options, data = config.net_config, config.train_config, config.dataset_config
    weights = config.load_checkpoint_path or config.resume
    optimizer, schedule = f"train_config.{options.optimizer}", f"train_config.{options.lr_schedule}"
    return _unused(config, [
        *_unused_anywhere(config, network.arch), *_unused_sizes(config),
        (not config.distribute and not launcher_variable(), "distribute is false", ["device_num"]),
        (not config.enable_data_sink, "enable_data_sink is false", ["data_sink_steps"]),
        (not config.enable_save_ckpt, "enable_save_ckpt is false",
         ["save_checkpoint_steps", "save_checkpoint_num", "save_checkpoint_minutes",
          *([] if config.resume else ["save_checkpoint_path"])]),
        (config.resume, "resume is true", ["net_config.load_backbone_path"]),
        (config.load_checkpoint_path, "load_checkpoint_path names a complete checkpoint",
         ["net_config.load_backbone_path"]),
        (not config.eval_epochs, "eval_epochs is 0", ["best_metric"]),
        (True, "evaluations during training are on the validation images", ["split"]),
        (not options.ema_decay and not weights, "train_config.ema_decay is 0 and no checkpoint is loaded",
         ["use_ema"]),
        (not config.need_profiler, "need_profiler is false", ["profiler_path"]),
        (data.heatmap_on == "device" and task_of(network).targets.draws_on_host(config, "Ascend"),
         "the host draws these heatmaps", ["dataset_config.heatmap_on"]),
        *_unused_options(config, task_of(network)), *task_of(network).targets.unused(config),
        (not data.color_aug, "dataset_config.color_aug is false",
         ["dataset_config.eig_val", "dataset_config.eig_vec"]),
        (not config.enable_lossscale, "enable_lossscale is false",
         [f"train_config.{name}" for name in ("loss_scale_value", "dynamic_loss_scale", "max_overflows")]),
        (not config.enable_lossscale or not options.dynamic_loss_scale, "the loss scale is not dynamic",
         ["train_config.loss_scale_window"]),
        (options.freeze == "backbone", "train_config.freeze is backbone", ["train_config.backbone_lr_factor"]),
        (options.optimizer == "SGD", "train_config.optimizer is SGD", [f"{schedule}.eps"]),
        (not getattr(options, options.optimizer).weight_decay, f"{optimizer}.weight_decay is 0",
         [f"{optimizer}.decay_filter"]),
    ]) + _unused_sections(config) + _never_divided(config)


def unused_in_evaluation(config: Config, arch: str, as_onnx: bool, task: Task) -> list[str]:
    """Messages about parameters without effect in an evaluation of a model of this architecture and Task."""
    several = len(config.eval_config.multi_scales) > 1
    return _unused(config, [
        *_unused_anywhere(config, arch), *_unused_sizes(config), *_unused_options(config, task),
        (as_onnx, "a runtime of ONNX files computes",
         ["device_target", "device_id", "conv_allow_hf32", "jit_level", "net_config.dcn_impl"]),
        (not as_onnx, "MindSpore computes", ["onnx_provider", "runtime"]),
        (several, "it is always on with several eval_config.multi_scales", ["eval_config.SOFT_NMS"]),
        (not is_scored(config), f"run_mode is {config.run_mode} and enable_eval is {str(config.enable_eval).lower()}",
         ["eval_config.voc_metric"]),
        (not config.visual_image, "visual_image is false", ["eval_config.score_thresh"]),
        *_recorded("model"),
    ])


def unused_in_export(config: Config, arch: str) -> list[str]:
    """Messages about parameters without effect in an export of a model of this architecture."""
    options = config.export_config
    onnx = options.export_format == "ONNX"
    return _unused(config, [
        *_unused_anywhere(config, arch),
        *_recorded("checkpoint"),
        (not onnx, f"export_config.export_format is {options.export_format}",
         [f"export_config.onnx_{name}" for name in ("dcn", "dynamic", "decode", "dtype")]),
        (onnx and not options.onnx_decode, "this ONNX file ends in the maps (export_config.onnx_decode)",
         ["eval_config.K"]),
        (onnx and options.onnx_dynamic, "it is dynamic in this ONNX file (export_config.onnx_dynamic)",
         ["export_config.batch_size", "export_config.input_res"]),
    ])


def _unused_anywhere(config: Config, arch: str) -> Unused:
    modelarts = ["data_url", "train_url", "checkpoint_url", "modelarts_local_path", "modelarts_timeout"]
    return [(not config.enable_modelarts, "enable_modelarts is false", modelarts),
            (arch.startswith(("res_", "hourglass")), f"{arch} has no deformable convolutions",
             ["net_config.dcn_impl", "export_config.onnx_dcn"])]


def _unused_options(config: Config, task: Task) -> Unused:
    others = {name for other in TASKS.values() for name in other.options} - set(task.options)
    return [(True, f"the task is {task.name}", sorted(others))]


def _recorded(whose: str) -> Unused:
    return [(True, f"the {whose}'s side file has {what}", [name])
            for task in TASKS.values() for name, what in task.recorded.items()]


def _unused_sizes(config: Config) -> Unused:
    keep_res = config.eval_config.keep_res
    return [(keep_res, "eval_config.keep_res is true", ["dataset_config.input_res_test"]),
            (not keep_res, "eval_config.keep_res is false", ["eval_config.pad_multiple"])]


def _unused_sections(config: Config) -> list[str]:
    """Messages about parameters of the optimizers and schedules that are not in use, with those that are."""
    messages, changed = [], config.changed()
    for parameter, sections in SECTIONS.items():
        used = getattr(config.train_config, parameter)
        for section in (name for name in sections if name != used):
            names = [name for name in changed if name.startswith(f"train_config.{section}.")]
            same = [name.replace(f".{section}.", f".{used}.") for name in names]
            instead = ", ".join(name for name in same if name in config.parameters())
            if names:
                messages.append(f"without effect, since train_config.{parameter} is {used}: {', '.join(names)}; set "
                                f"train_config.{parameter} {section} to use it{instead and f', or set {instead}'}")
    return messages


def _never_divided(config: Config) -> list[str]:
    """A message in a list if a training ends before its rate is divided for the first time."""
    options, epochs = config.train_config, config.epoch_size
    after = options.MultiDecay.multi_epochs
    if options.lr_schedule != "MultiDecay" or not after or min(after) < epochs:
        return []
    return [f"the learning rate is never divided: epoch_size is {epochs}, train_config.MultiDecay.multi_epochs {after}"]


def _unused(config: Config, rows: Unused) -> list[str]:
    """A message for each row whose condition holds and that names a changed parameter."""
    messages = []
    for holds, condition, names in rows:
        unused = [name for name in config.changed() if name in names]
        if holds and unused:
            messages.append(f"without effect, since {condition}: {', '.join(unused)}")
    return messages
