"""Export a checkpoint as a MindIR, ONNX or (on Ascend) AIR model that outputs decoded detections."""
from src.commands import start

if __name__ == "__main__":
    start("export")
