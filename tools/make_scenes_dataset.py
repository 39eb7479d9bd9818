"""Generate a small data set of 3D boxes, like KITTI's: street scenes of cars, pedestrians and cyclists."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("make_scenes_dataset")
