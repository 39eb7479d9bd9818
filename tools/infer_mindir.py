"""Run an exported MindIR file over the input files of preprocess.py, on Ascend or a CPU; writes the files postprocess.py reads."""
import os
import sys
import time

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from src import errors
from src.mindspore_version import require_mindspore
from src.options import OptionParser
from src.side_file import read_exported


def main(argv=None):
    parser = OptionParser(description=__doc__)
    parser.add_argument("--mindir", required=True, help="exported file; its side file lies beside it")
    parser.add_argument("--input_dir", required=True, help="folder of the inputs, <predict_dir>/data of preprocess.py")
    parser.add_argument("--result_path", required=True, help="folder for the results")
    parser.add_argument("--device_target", choices=("auto", "Ascend", "CPU"), default="auto", help="device (default: %(default)s)")
    parser.add_argument("--device_id", type=int, default=0, help="number of the Ascend device (default: %(default)s)")
    options = parser.parse_args(argv)
    require_mindspore()
    read_exported(options.mindir)
    errors.require_dir(options.input_dir, "folder of inputs (--input_dir)")
    # MindSpore is slow to load, and not needed for a wrong path.
    from src.detector import load_mindir
    from src.model_utils.device_adapter import set_device
    from src.offline import run_inputs

    set_device(options.device_target, options.device_id)
    detector = load_mindir(options.mindir)
    start = time.perf_counter()
    done, skipped = run_inputs(detector, options.input_dir, options.result_path)
    seconds = time.perf_counter() - start
    print(f"{done} results, {len(skipped)} skipped, {done / seconds:.2f} images/s with compilation: {options.result_path}")


if __name__ == "__main__":
    errors.run(main)
