"""Export a checkpoint as a MindIR, ONNX or, on Ascend, AIR file that ends in decoded detections."""
from src.commands import start

if __name__ == "__main__":
    start("export")
