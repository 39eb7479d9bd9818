"""The model zoo's modules and the successors of their names."""
import importlib
from collections.abc import Callable, Iterable

HOMES = {  # module of the model zoo: modules of this package with its content
    "centernet_det": ("network.centernet",),
    "dataset": ("data.train_set", "commands.dataset"),
    "decode": ("tasks.detection.device", "tasks.points"),
    "image": ("imaging.geometry", "imaging.color", "imaging.gaussians"),
    "post_process": ("tasks.detection.results",),
    "resnet": ("network.resnet",),
    "resnet50": ("network.resnet",),
    "utils": ("core.console", "core.files", "core.backups"),
    "visual": ("imaging.drawing", "tasks.pictures"),
    # Names in earlier versions of this project.
    "coco": ("data.coco",),
    "image_files": ("imaging.reading",),
    "predictor": ("inference.predictor",),
}
SUCCESSORS = {  # missing names: their replacements
    "centernet_det": {
        "GatherDetectionFeatureCell": "network.centernet.CenterNet",
        "CenterNetLossCell": "tasks.detection.device.CenterNetLoss",
        "ImagePreProcess": "network.device_input.Normalize",
        "CenterNetWithoutLossScaleCell": "training.step.TrainStep",
        "CenterNetWithLossScaleCell": "training.step.TrainStep",
        "CenterNetDetEval": "network.centernet.DetectionNetwork",
        "resnet18": "network.centernet.build_network",
    },
    "dataset": {"COCOHP": "data.train_set.TrainSet"},
    "decode": {
        "NMS": "tasks.points.suppress_non_peaks", "GatherTopK": "tasks.points.top_k",
        "DetectionDecode": "tasks.detection.device.decode",
    },
    "image": {
        "get_affine_transform": "imaging.geometry.affine_matrix",
        "affine_transform": "imaging.geometry.transform_points",
        "transform_preds": "imaging.geometry.transform_points", "get_3rd_point": "imaging.geometry.affine_matrix",
        "get_dir": "imaging.geometry.affine_matrix", "crop": "imaging.geometry.warp",
        "flip": "imaging.geometry.flip_boxes",
        "gaussian2D": "imaging.gaussians.gaussian_kernel", "draw_umich_gaussian": "imaging.gaussians.draw_gaussian",
        "draw_msra_gaussian": "imaging.gaussians.draw_gaussian", "draw_dense_reg": "imaging.gaussians.draw_dense_value",
        "grayscale": "imaging.color.mean_gray",
        **dict.fromkeys(("lighting_", "blend_", "saturation_", "brightness_", "contrast_"),
                        "imaging.color.color_matrix"),
        "color_aug": "imaging.color.random_color",
    },
    "post_process": {
        "post_process": "tasks.detection.results.to_image", "merge_outputs": "tasks.detection.results.merge",
        "convert_eval_format": "tasks.detection.results.coco_records",
        "to_float": "tasks.detection.results.coco_records",
        "resize_detection": "tasks.detection.results.to_image",
    },
    "resnet": {"ModulatedDeformConv2d": "network.deform_conv.DeformConv2d", "conv3x3": "network.resnet.conv"},
    "resnet50": {"ModulatedDeformConv2d": "network.deform_conv.DeformConv2d",
                 "resnet50": "network.centernet.build_network"},
    "utils": {
        "GradScale": "training.step.TrainStep", "GatherFeature": "tasks.points.gather_at_centers",
        "TransposeGatherFeature": "tasks.points.gather_at_centers", "Sigmoid": "tasks.points.clamped_sigmoid",
        "FocalLoss": "tasks.points.focal_loss", "RegLoss": "tasks.points.l1_loss",
        "TimeMonitor": "runs.record.TrainingLog", "LossCallBack": "runs.record.TrainingLog",
        "CenterNetPolynomialDecayLR": "training.lr_schedule.PolyDecay",
        "CenterNetMultiEpochsDecayLR": "training.lr_schedule.MultiDecay",
        "MultiEpochsDecayLR": "training.lr_schedule.MultiDecay",
    },
    "visual": {
        "visual_image": "imaging.drawing.draw_boxes", "visual_allimages": "imaging.drawing.draw_boxes",
        "visual": "imaging.drawing.draw_boxes", "coco_box_to_bbox": "data.objects.usable_objects",
        "merge_pred": "evaluation.results.Results", "resize_image": "imaging.view.make_input",
    },
}


def refuse_zoo_name(package: str, wanted: str, modules: Iterable[str] = tuple(SUCCESSORS)) -> None:
    """Raise ImportError that names the successor if the wanted name is one of the model zoo's missing names."""
    for module in modules:
        if successor := SUCCESSORS.get(module, {}).get(wanted):
            raise ImportError(f"{wanted} of the model zoo's src/{module}.py does not exist; its replacement is "
                              f"{package}.{successor}, with other arguments (docs/differences.md; to detect: from "
                              f"{package} import Predictor)")


def getter(module: str) -> Callable[[str], object]:
    """The __getattr__ of a module with the model zoo's name, which looks names up in its homes.

    Raises ImportError that names a successor.
    """
    package, _, name = module.rpartition(".")

    def get(wanted: str) -> object:
        for home in HOMES[name]:
            found = importlib.import_module(f"{package}.{home}")
            if hasattr(found, wanted):
                return getattr(found, wanted)
        refuse_zoo_name(package, wanted, [name])
        raise AttributeError(f"module {module!r} has no attribute {wanted!r}")

    return get
