"""Turn an exported ONNX file into one of int8 convolutions, calibrated on a folder of images; with annotations, say what it costs in AP."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("quantize_onnx")
