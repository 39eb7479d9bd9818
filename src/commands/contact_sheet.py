"""Run an exported model on images of a COCO-format data set; draw detections next to the ground truth on one sheet."""
from ..core import errors
from ..core.errors import UserError
from ..inference.options import OptionParser, add_exported_option, open_model_of
from ..model_utils.config import get_config

MAX_VALUE = 10_000  # of --count, --columns and --width


def main() -> None:
    parser = OptionParser(description=__doc__)
    add_exported_option(parser, required=True)
    parser.add_argument("--data_dir", required=True, help="data set folder; its validation images are drawn")
    parser.add_argument("--output", required=True, help="image file to write, .png or .jpg")
    parser.add_argument("--count", type=int, default=12,
                        help="number of images, spread evenly over the data set (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=3, help="images per row (default: %(default)s)")
    parser.add_argument("--width", type=int, default=960,
                        help="width of a pair, detections and ground truth, in pixels (default: %(default)s)")
    parser.add_argument("--config_path", help="configuration of the data set")
    options = parser.parse_args()
    for name in ("count", "columns", "width"):
        if not 1 <= getattr(options, name) <= MAX_VALUE:
            raise UserError(f"--{name} is {getattr(options, name)}; expected a number from 1 to {MAX_VALUE}")
    if not options.output.lower().endswith((".png", ".jpg")):
        raise UserError(f"--output is {options.output}; expected a name ending in .png or .jpg")
    config = get_config(__doc__, ["--config_path", options.config_path] if options.config_path else [])
    model = open_model_of(options)

    # Slow to load, so not before there is something to do.
    from ..core.backups import contains_mark, require_ours
    from ..core.console import LOG
    from ..data.coco import check_classes, find_split, image_list, image_size, read_coco
    from ..data.objects import ground_truth
    from ..data.summary import sample_evenly
    from ..imaging import drawing
    from ..imaging.reading import read_image
    from ..inference.predictor import Predictor
    from ..tasks import task_of
    from ..tasks.pictures import compare

    require_ours(options.output, contains_mark(), option="--output")

    predictor = Predictor(model, "CPU", SOFT_NMS=config.eval_config.SOFT_NMS)
    description = predictor.detector.description
    task = task_of(description)
    split = find_split(options.data_dir, "val", config.dataset_config, task=task)
    coco = read_coco(split.annotation, split.image_dir, task)
    category_ids = check_classes(description, coco, split.annotation)
    images = image_list(split, coco)
    sheet = []
    for image_id, path in sample_evenly(images, options.count):
        try:
            image = read_image(path, image_size(coco.imgs[image_id]), config.dataset_config.max_pixels)
        except (OSError, ValueError) as error:
            LOG.warning(f"skipped image {image_id} ({path}): {errors.reason(error)}")
            continue
        truth = ground_truth(task, coco, image_id, category_ids, description)
        fit_into = (options.width // 2, options.width)  # keeps labels legible
        detections = predictor(image, task.results.camera_of(coco.imgs[image_id])).detections()
        sheet.append(compare(task, image, detections, truth, description, config.eval_config.score_thresh, fit_into))
    if not sheet:
        raise UserError(f"none of the chosen images of {split.annotation} can be read")
    drawing.save_image(options.output, drawing.contact_sheet(sheet, options.columns, options.width), contains_mark())
    print(f"{len(sheet)} images: {options.output}")
