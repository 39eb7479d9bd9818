"""Score the result files of offline (Ascend 310) inference: boxes of the original images, COCO table."""
from src.commands import start

if __name__ == "__main__":
    start("postprocess")
