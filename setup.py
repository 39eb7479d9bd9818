"""Builds the Cython extensions in place: python setup.py build_ext --inplace"""
from Cython.Build import cythonize
from setuptools import Extension, setup

# lrintf as one instruction; and no fused multiply-add, which ARM compilers choose and which rounds otherwise.
FLAGS = ["-O3", "-fno-math-errno", "-ffp-contract=off"]
EXTENSIONS = [Extension(f"src.{name}", [f"src/{name}.pyx"], extra_compile_args=FLAGS) for name in ("soft_nms", "resample")]

setup(name="centernet-mindspore", packages=["src", "src.model_utils"], ext_modules=cythonize(EXTENSIONS))
