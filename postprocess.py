"""Score the result files of offline (Ascend 310) inference; write detections in image pixels and the COCO metrics."""
from src.commands import start

if __name__ == "__main__":
    start("postprocess")
