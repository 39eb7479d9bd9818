"""Make one self-contained HTML file about a training and its evaluation: curves, scores, errors, images, speed."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from src import errors
from src.errors import UserError
from src.model_utils.config import get_config
from src.options import OptionParser


def main(argv=None):
    parser = OptionParser(description=__doc__)
    parser.add_argument("result_dir", metavar="RESULT_DIR", help="save_result_dir of train.py and eval.py: train_record.jsonl, val/")
    parser.add_argument("--output", help="file to write (default: RESULT_DIR/report.html)")
    parser.add_argument("--title", help="heading (default: the folder's name)")
    parser.add_argument("--data_dir", help="data set that was evaluated on (default: where it was then)")
    parser.add_argument("--config_path", help="configuration of the data set (with --data_dir)")
    options = parser.parse_args(argv)
    config = get_config(__doc__, ["--config_path", options.config_path] if options.config_path else [])

    from src.evaluation import FOUND, SCORES, TIMES
    from src.report import Run, write_report
    from src.utils import keep_earlier, log, read_json

    folder = errors.require_dir(options.result_dir, "result folder")
    record = os.path.join(folder, "train_record.jsonl")
    scores = os.path.join(folder, "val") if os.path.isdir(os.path.join(folder, "val")) else folder
    paths = {name: os.path.join(scores, name) for name in ("metrics.json", "val_pred_result.json")}
    for path in (record, *paths.values()):
        if not os.path.isfile(path):
            log(f"without {path}")
    if not any(os.path.isfile(path) for path in (record, *paths.values())):
        raise UserError(f"{folder} has neither train_record.jsonl nor val/ of an evaluation")
    content = {"record_path": record if os.path.isfile(record) else None}
    if os.path.isfile(paths["metrics.json"]):
        content["metrics"] = read_json(paths["metrics.json"], "scores of eval.py", SCORES)
        if "stage_seconds" in content["metrics"]:
            read_json(paths["metrics.json"], "scores of eval.py", TIMES)
    if os.path.isfile(paths["val_pred_result.json"]):
        result = read_json(paths["val_pred_result.json"], "detections of eval.py", FOUND)
        content.update(ground_truth(result, options, config))
    output = keep_earlier(options.output or os.path.join(folder, "report.html"))
    title = options.title or os.path.basename(os.path.abspath(folder))
    write_report(output, title, Run(**content), config.eval_config.score_thresh)
    print(f"wrote {output}")


def ground_truth(result, options, config):
    """Ground truth, records and images of an evaluation's result: {"coco", "records", "images"}. Raises UserError."""
    from src.coco import find_split, image_list, read_coco

    if options.data_dir:
        split = find_split(options.data_dir, "val", config.dataset_config)
        coco = read_coco(split.annotation)
        images = dict(image_list(split, coco))
    else:
        if not os.path.isfile(result["annotation"]):
            raise UserError(f"the annotations are no longer at {result['annotation']}; say where the data set is with --data_dir")
        coco = read_coco(result["annotation"])
        images = {info["id"]: info["file_name"] for info in result["images"]}
    unknown = [record["image_id"] for record in result["annotations"] if record["image_id"] not in coco.imgs]
    if unknown:
        raise UserError(f"image {unknown[0]} of the results is not in the annotations; is it the data set of this evaluation?")
    foreign = [record["category_id"] for record in result["annotations"] if record["category_id"] not in coco.cats]
    if foreign:
        raise UserError(f"category id {foreign[0]} of the results is not in the annotations; is it the data set of this evaluation?")
    return {"coco": coco, "records": result["annotations"], "images": images}


if __name__ == "__main__":
    errors.run(main)
