"""Write the validation images as input files for offline (Ascend 310) inference, and the metadata that postprocess.py needs."""
from src.commands import start

if __name__ == "__main__":
    start("preprocess")
