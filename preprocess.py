"""Write validation images as input files for offline (Ascend 310) inference, along with metadata for postprocess.py."""
from src.commands import start

if __name__ == "__main__":
    start("preprocess")
