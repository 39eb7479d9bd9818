"""Reading and writing PyTorch's weight files without running what they hold. Only the converters in tools/ need PyTorch."""
import collections
import pickle
import struct
import tarfile

import numpy as np

from src import errors
from src.errors import UserError
from src.project import how_to_install
from src.utils import unmarked, whole_file

# Storage types of the tar format, as NumPy types; sizes and numbers in it are little-endian.
STORAGE_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1",
}


def import_torch():
    """The torch module. Raises UserError that says how to install it."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"PyTorch's files need PyTorch, which is not installed: {how_to_install('torch')}") from error
    return torch


def read_torch_file(path):
    """Read a weight file of PyTorch in any of its three formats: zip, the pickle before it, the tar of 2017 and before.

    Returns (state {name: NumPy array}, the file's other entries {name: value}). Only plain containers and tensors are
    unpickled. Raises UserError if the file is missing, damaged, or holds anything else.
    """
    errors.require_file(path, "PyTorch file (--ckpt_file)")
    torch = import_torch()
    try:
        # torch.load(weights_only=True) refuses the tar format, in which the first ImageNet weights were published.
        content = _read_tar(path) if tarfile.is_tarfile(path) else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message is a page that recommends to trust the file.
        culprit = next((line for line in str(error).splitlines() if "nsupported" in line), str(error).splitlines()[0]).strip()
        raise UserError(f"{path}: not a PyTorch weight file, or one that holds more than weights ({culprit}); if you trust its origin, "
                        "save its state_dict alone with PyTorch and convert that") from error
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, UnicodeDecodeError, struct.error,
            tarfile.TarError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a PyTorch weight file, or a damaged one ({reason})") from error
    others = {}
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        others = {name: value for name, value in content.items() if name != "state_dict"}
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: it holds no state dict (names with tensors, or an entry state_dict of that kind)")
    state = {}
    for name, value in content.items():
        array = value
        if torch.is_tensor(value):
            array = (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()  # NumPy has no bfloat16
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path}: {name} is no tensor that NumPy can hold ({type(value).__name__}); it holds no state dict of weights")
        state[str(name)] = array
    return state, others


def write_torch_file(path, state, epoch):
    """Write {name: NumPy array} as the original's training does: a dictionary of epoch and state_dict. Raises UserError if
    path is taken."""
    torch = import_torch()
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    with whole_file(path, unmarked) as partial:
        torch.save({"epoch": epoch, "state_dict": tensors}, partial)


# ---------------------------------------------------------------- the tar format


class _Variable:
    """What PyTorch once wrapped trained tensors in; of its state only the data matters here."""

    def __new__(cls, data, *_):
        variable = object.__new__(cls)
        variable.data = data
        return variable

    def __setstate__(self, state):
        """Drop requires_grad and hooks."""


class _Unpickler(pickle.Unpickler):
    """An unpickler for the tar format's parts that makes containers, names of types and tensors, and nothing else."""

    def __init__(self, file, tensors=None):
        super().__init__(file, encoding="utf-8")
        self.tensors = tensors or {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in (("torch.nn.parameter", "Parameter"), ("torch.autograd.variable", "Variable")):
            return _Variable
        if module == "torch" and name.endswith(("Storage", "Tensor")):
            return name
        raise pickle.UnpicklingError(f"unsupported type {module}.{name}")

    def persistent_load(self, pid):
        return self.tensors[int(pid)]


def _read_tar(path):
    """What a file in the tar format holds, tensors as NumPy arrays."""
    with tarfile.open(path, "r:") as tar:
        storages = _tar_storages(_member(tar, "storages"))
        tensors = _tar_tensors(_member(tar, "tensors"), storages)
        content = _Unpickler(_member(tar, "pickle"), tensors).load()
    if isinstance(content, dict):
        return type(content)((name, _unwrap(value)) for name, value in content.items())
    return content


def _member(tar, name):
    file = tar.extractfile(name)
    if file is None:
        raise tarfile.TarError(f"{name} is no file")
    return file


def _tar_storages(file):
    """{key: flat array}: a count; for each storage its (key, offset, type), its length and its numbers; views of others."""
    storages = {}
    for _ in range(_Unpickler(file).load()):
        key, _, storage_type = _Unpickler(file).load()
        dtype = np.dtype(STORAGE_TYPES[storage_type])
        (length,) = struct.unpack("<q", file.read(8))
        # A copy, since what frombuffer makes cannot be written to.
        storages[key] = np.frombuffer(file.read(length * dtype.itemsize), dtype, length).copy()
    for key, root, offset, length in _Unpickler(file).load():
        storages[key] = storages[root][offset : offset + length]
    return storages


def _tar_tensors(file, storages):
    """{key: array}: a count; for each tensor its (key, storage, type), dimensions, shape, strides and offset."""
    tensors = {}
    for _ in range(_Unpickler(file).load()):
        key, storage, _ = _Unpickler(file).load()
        (ndim,) = struct.unpack("<i4x", file.read(8))  # of the eight bytes, early versions filled four
        shape, strides = (struct.unpack(f"<{ndim}q", file.read(8 * ndim)) for _ in range(2))
        (offset,) = struct.unpack("<q", file.read(8))
        flat = storages[storage][offset:]
        last = sum((length - 1) * stride for length, stride in zip(shape, strides))
        if min(shape, default=1) < 1 or min(strides, default=0) < 0 or offset < 0 or last >= len(flat):
            raise ValueError(f"tensor {key} lies outside its storage")
        view = np.lib.stride_tricks.as_strided(flat, shape, [stride * flat.itemsize for stride in strides])
        tensors[key] = view.copy()
    return tensors


def _unwrap(value):
    """Arrays for variables; dictionaries one level deep, such as a checkpoint's state_dict."""
    if isinstance(value, _Variable):
        return value.data
    if isinstance(value, dict):
        return type(value)((name, _unwrap(inner)) for name, inner in value.items())
    return value
