"""Quantize the convolutions of an exported ONNX model to int8."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("quantize_onnx")
