"""Reading PyTorch's weight files without PyTorch and without running what they hold; writing them, which needs PyTorch.

All three of its formats describe tensors in a pickle, each a view of a storage, whose numbers lie elsewhere in the file. What a file says
of itself is not trusted: a storage is as long as its bytes, and a tensor lies inside its storage and is no larger.
"""
import contextlib
import functools
import io
import mmap
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np

from ..core import errors
from ..core.backups import unmarked
from ..core.errors import UserError
from ..core.files import atomic_write
from ..core.project import how_to_install
from .torch_pickles import MAX_DIMENSIONS, Storage, Tensor, Unpickler, checked_key

MAGIC = 0x1950A86A20F9469CFC6C  # what the format of one pickle after another begins with


def read_torch_file(path):
    """Read a weight file of PyTorch in any of its three formats: zip, the pickles before it, the tar of 2017 and before.

    Returns (state {name: NumPy array}, the file's other entries {name: value}). Only plain containers and tensors are
    unpickled. Raises UserError if the file is missing, damaged, or holds anything else.
    """
    errors.require_file(path, "PyTorch file (--ckpt_file)")
    try:
        with open(path, "rb") as file, errors.about(path):
            return _state(_reader(file)(file))
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a PyTorch weight file, or one that holds more than weights ({errors.reason(error)}); if you trust "
                        "its origin, save its state_dict alone with PyTorch and convert that") from error
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, MemoryError, struct.error,
            tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a PyTorch weight file, or a damaged one ({errors.reason(error).splitlines()[0]})") from error


def write_torch_file(path, state, epoch):
    """Write {name: NumPy array} as the original's training does: a dictionary of epoch and state_dict. Raises UserError if
    path is taken."""
    torch = import_torch()
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    with atomic_write(path, unmarked) as partial:
        torch.save({"epoch": epoch, "state_dict": tensors}, partial)


def import_torch():
    """The torch module. Raises UserError that says how to install it."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"a file of PyTorch's is written by PyTorch, which is not installed: {how_to_install('torch')}") from error
    return torch


def _state(content):
    """(state {name: array}, other entries) of what a file holds. Raises UserError if that is no state dict."""
    others = {}
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        others = {name: value for name, value in content.items() if name != "state_dict"}
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise UserError("it holds no state dict (names with tensors, or an entry state_dict of that kind)")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{name} is no tensor ({type(value).__name__}); it holds no state dict of weights")
    return {str(name): value.array(name) for name, value in content.items()}, others


# ---------------------------------------------------------------- the formats


def _reader(file):
    """What reads an open file: it returns the content, with _Tensors in it, which read from the file."""
    start = file.read(9)
    file.seek(0)
    if start[:4] == b"PK\3\4":
        return _read_zip
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < os.path.getsize(file.name):
        raise UserError("a safetensors file, which is not read; load it with the library safetensors, and save its tensors with torch.save")
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=file, mode="r:"):
        file.seek(0)
        return _read_tar
    file.seek(0)
    return _read_pickles


def _read_zip(file):
    """PyTorch's format since 1.6: data.pkl, and a file for each storage, none of them compressed."""
    archive = zipfile.ZipFile(file)
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    if sum(sizes.values()) > _size(file):
        raise ValueError("its parts are larger than the file")
    root = next((name for name in sizes if name.endswith("/data.pkl")), "/data.pkl").removesuffix("data.pkl")
    if sizes.get(f"{root}byteorder") and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("its numbers are big-endian")

    def described(pid):
        _, kind, key, *_ = pid
        return Storage(kind, functools.partial(archive.read, f"{root}data/{checked_key(key)}"))

    return Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")), described).load()


def _read_pickles(file):
    """PyTorch's format before 1.6: a magic number, a version, facts of the machine, the content, the storages' keys, and their numbers."""
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # which reads no further than the end, and takes no memory for more
    if Unpickler(data).load() != MAGIC:
        raise pickle.UnpicklingError("unsupported pickle: no magic number")
    Unpickler(data).load()
    if not Unpickler(data).load()["little_endian"]:
        raise ValueError("its numbers are big-endian")
    storages = {}

    def described(pid):
        _, kind, key, _, _, *view = pid
        if any(view):
            raise pickle.UnpicklingError("unsupported view of a storage")
        return storages.setdefault(checked_key(key), Storage(kind))

    content = Unpickler(data, described).load()
    for key in Unpickler(data).load():
        (length,) = struct.unpack("<q", data.read(8))
        storage, start = storages[checked_key(key)], data.tell()
        end = start + length * storage.dtype.itemsize
        storage.read = functools.partial(data.__getitem__, slice(start, end))
        data.seek(end)  # which may not be behind the end
    return content


def _size(file):
    return os.fstat(file.fileno()).st_size


def _read_tar(file):
    """PyTorch's format of 2017 and before: three files of a tar archive."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        storages = _tar_storages(_member(tar, "storages", _size(file)))
        tensors = _tar_tensors(_member(tar, "tensors", _size(file)), storages)
        return Unpickler(_member(tar, "pickle", _size(file)), lambda pid: tensors[int(pid)]).load()


def _member(tar, name, most):
    """A file of an archive of `most` bytes, in memory."""
    info = tar.getmember(name)
    if not info.isreg() or info.issparse() or info.size > most:
        raise tarfile.TarError(f"{name} is no file, or one with holes")
    return io.BytesIO(tar.extractfile(info).read())


def _tar_storages(file):
    """{key: Storage}: a count; for each storage its (key, offset, type), its length and its numbers; views of others."""
    storages = {}
    for _ in range(Unpickler(file).load()):
        key, _, kind = Unpickler(file).load()
        storages[checked_key(key)] = storage = Storage(kind)
        (length,) = struct.unpack("<q", file.read(8))
        if length < 0:
            raise ValueError(f"storage {key} has {length} numbers")
        storage.read = functools.partial(bytes, file.read(length * storage.dtype.itemsize))
    for key, root, offset, length in Unpickler(file).load():
        storages[checked_key(key)] = storages[checked_key(root)].part(offset, length)
    return storages


def _tar_tensors(file, storages):
    """{key: Tensor}: a count; for each tensor its (key, storage, type), dimensions, shape, strides and offset."""
    tensors = {}
    for _ in range(Unpickler(file).load()):
        key, storage, _ = Unpickler(file).load()
        (ndim,) = struct.unpack("<i4x", file.read(8))  # of the eight bytes, early versions filled four
        if ndim > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {ndim} dimensions")
        *sizes, offset = struct.unpack(f"<{2 * ndim + 1}q", file.read(8 * (2 * ndim + 1)))
        tensors[checked_key(key)] = Tensor(storages[checked_key(storage)], offset, sizes[:ndim], sizes[ndim:])
    return tensors
