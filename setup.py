"""Builds the Cython extensions in place: python setup.py build_ext --inplace"""
from Cython.Build import cythonize
from setuptools import Extension, setup

EXTENSIONS = [Extension(f"src.{name}", [f"src/{name}.pyx"], extra_compile_args=["-O3"]) for name in ("soft_nms", "resample")]

setup(name="centernet-mindspore", packages=["src", "src.model_utils"], ext_modules=cythonize(EXTENSIONS))
