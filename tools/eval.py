"""Run eval.py of the folder above: python tools/eval.py --config_path=./default_config.yaml"""
import os
import runpy
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[0] = ROOT
runpy.run_path(os.path.join(ROOT, "eval.py"), run_name="__main__")
