"""Run an exported model on the input files of preprocess.py, on Ascend or CPU; write results for postprocess.py."""
import time
from collections.abc import Sequence

from ..core import errors
from ..core.backups import require_ours
from ..inference.offline import RESULTS, run_inputs
from ..inference.options import OptionParser, add_device_options, add_exported_option, device_options, open_model_of
from ..model_utils.config import make_config


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(description=__doc__)
    add_exported_option(parser, required=True)
    parser.add_argument("--input_dir", required=True, help="folder of the inputs: <predict_dir>/data of preprocess.py")
    parser.add_argument("--result_path", required=True, help="folder for the results")
    add_device_options(parser)
    options = parser.parse_args(argv)
    model = open_model_of(options)
    errors.require_dir(options.input_dir, "folder of inputs (--input_dir)")
    require_ours(options.result_path, RESULTS, option="--result_path")
    config = make_config(**device_options(options))
    detector = model.load(config)
    start = time.perf_counter()
    done, skipped = run_inputs(detector, options.input_dir, options.result_path)
    seconds = time.perf_counter() - start
    print(f"{done} results, {len(skipped)} skipped, {done / seconds:.2f} images/s including compilation: "
          f"{options.result_path}")
