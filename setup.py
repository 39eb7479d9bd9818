"""Build the Cython extensions in place (python setup.py build_ext --inplace) and the package `centernet` (pip install
.).

The package is src/, whose modules import each other relatively. It is named `src` in a checkout, which has the model
zoo's layout, and `centernet` when installed.
"""
import glob
import os
import shutil

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

# Compile lrintf to one instruction, and avoid fused multiply-add, which ARM compilers use and which rounds differently.
FLAGS = ["-O3", "-fno-math-errno", "-ffp-contract=off"]
NATIVE = {f"centernet.native.{name}": f"src/native/{name}.pyx" for name in ("soft_nms", "resample")}
EXTENSIONS = [Extension(name, [source], extra_compile_args=FLAGS) for name, source in NATIVE.items()]
PACKAGES = ["centernet", *(f"centernet.{name}" for name in find_packages("src"))]
DATA = ["py.typed", "native/*.pyx", "*/pages/*.html", "weights/names/*.txt"]
CONFIGS = ("default_config.yaml", "configs/*.yaml")  # next to src/ in a checkout, inside the package when installed


class BuildPackage(build_py):
    """Copies the configuration into the package; an editable installation finds it in the checkout."""

    def run(self):
        if not self.editable_mode:
            # Files of an earlier build may have been removed since.
            shutil.rmtree(os.path.join(self.build_lib, "centernet"), ignore_errors=True)
        super().run()
        if not self.editable_mode:
            for path in (path for pattern in CONFIGS for path in glob.glob(pattern)):
                target = os.path.join(self.build_lib, "centernet", path)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy(path, target)


def requirements(name):
    """The lines of a requirements file and the files it includes, without comments."""
    with open(name, encoding="utf-8") as file:
        lines = [line.partition(" #")[0].strip() for line in file if line.strip() and not line.startswith("#")]
    return [found for line in lines for found in (requirements(line[3:]) if line.startswith("-r ") else [line])]


def dependencies():
    """The requirements and extras, as arguments of setup(); empty when src/native/extensions.py runs this file."""
    if not os.path.exists("requirements.txt"):
        return {}
    names = ("onnx", "openvino", "serve", "tensorboard", "torch")
    extras = {name: requirements(f"requirements-{name}.txt") for name in names}
    return {"install_requires": requirements("requirements.txt"), "extras_require": extras}


if __name__ == "__main__":
    setup(name="centernet-mindspore", packages=PACKAGES, package_dir={"centernet": "src"},
          package_data={"centernet": DATA}, include_package_data=False, ext_modules=cythonize(EXTENSIONS),
          cmdclass={"build_py": BuildPackage}, **dependencies())
