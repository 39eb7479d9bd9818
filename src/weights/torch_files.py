"""Reading PyTorch's weight files without PyTorch and without executing their content; writing them with PyTorch.

In all three formats, a pickle describes each tensor as a view of a storage; the numbers follow elsewhere in the file.
Descriptions are not trusted: a storage has the length of its bytes, and a tensor must fit into its storage.
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
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from ..core import errors
from ..core.backups import never_ours
from ..core.errors import UserError
from ..core.files import atomic_write
from ..core.project import how_to_install
from .torch_pickles import MAX_DIMENSIONS, Storage, Tensor, Unpickler, checked_key

MAGIC = 0x1950A86A20F9469CFC6C  # start of the format that is a sequence of pickles


def read_torch_file(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a PyTorch weight file of any format: zip, the earlier sequence of pickles, or tar (until 2017).

    Returns (state {name: NumPy array}, the file's other entries {name: value}). Only plain containers and tensors are
    unpickled. Raises UserError if the file is missing, damaged, or contains anything else.
    """
    errors.require_file(path, "PyTorch file (--ckpt_file)")
    try:
        with open(path, "rb") as file, errors.prefix_errors(path):
            return _state(_reader(file)(file))
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a PyTorch weight file, or one with other content than weights "
                        f"({errors.reason(error)}); if you trust its origin, save only its state_dict with PyTorch and "
                        "convert that") from error
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError,
            MemoryError, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        cause = errors.reason(error).splitlines()[0]
        raise UserError(f"{path}: not a PyTorch weight file, or a damaged one ({cause})") from error


def write_torch_file(path: str, state: Mapping[str, np.ndarray], epoch: int) -> None:
    """Write {name: NumPy array} in the original's format, a dictionary of epoch and state_dict.

    Raises UserError if path exists.
    """
    torch = import_torch()
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    with atomic_write(path, never_ours) as partial:
        torch.save({"epoch": epoch, "state_dict": tensors}, partial)


def import_torch() -> ModuleType:
    """Return the torch module. Raises UserError with the install command if it is missing."""
    try:
        import torch
    except ImportError as error:
        install = how_to_install("torch")
        raise UserError(f"writing a PyTorch file needs PyTorch, which is not installed: {install}") from error
    return torch


def _state(content: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(state {name: array}, other entries) of a file's content. Raises UserError if it has no state dict."""
    others = {}
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        others = {name: value for name, value in content.items() if name != "state_dict"}
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise UserError("it contains no state dict (tensors by name, or an entry state_dict with them)")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(f"it contains no state dict of weights: {name} is not a tensor ({type(value).__name__})")
    return {str(name): value.array(name) for name, value in content.items()}, others


# ---------------------------------------------------------------- formats


def _reader(file: BinaryIO) -> Callable[[BinaryIO], Any]:
    """The function for an open file's format. It returns the content, with Tensors that read from the file later."""
    start = file.read(9)
    file.seek(0)
    if start[:4] == b"PK\3\4":
        return _read_zip
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < os.path.getsize(file.name):
        raise UserError("safetensors files are not supported; load it with the safetensors package, and save its "
                        "tensors with torch.save")
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=file, mode="r:"):
        file.seek(0)
        return _read_tar
    file.seek(0)
    return _read_pickles


def _read_zip(file: BinaryIO) -> Any:
    """PyTorch's format since 1.6: data.pkl and one file per storage, all uncompressed."""
    archive = zipfile.ZipFile(file)
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    if sum(sizes.values()) > _size(file):
        raise ValueError("its members are larger than the file")
    root = next((name for name in sizes if name.endswith("/data.pkl")), "/data.pkl").removesuffix("data.pkl")
    if sizes.get(f"{root}byteorder") and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("its numbers are big-endian")

    def described(pid: tuple) -> Storage:
        _, kind, key, *_ = pid
        return Storage(kind, functools.partial(archive.read, f"{root}data/{checked_key(key)}"))

    return Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")), described).load()


def _read_pickles(file: BinaryIO) -> Any:
    """PyTorch's format before 1.6: magic number, version, machine, content, storage keys, and the storages' numbers."""
    data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # never reads, or allocates, beyond the file's end
    if Unpickler(data).load() != MAGIC:
        raise pickle.UnpicklingError("unsupported pickle: no magic number")
    Unpickler(data).load()
    if not Unpickler(data).load()["little_endian"]:
        raise ValueError("its numbers are big-endian")
    storages: dict[str | int, Storage] = {}

    def described(pid: tuple) -> Storage:
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
        data.seek(end)  # raises ValueError beyond the file's end
    return content


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _read_tar(file: BinaryIO) -> Any:
    """PyTorch's format until 2017: a tar archive of three files."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        storages = _tar_storages(_member(tar, "storages", _size(file)))
        tensors = _tar_tensors(_member(tar, "tensors", _size(file)), storages)
        return Unpickler(_member(tar, "pickle", _size(file)), lambda pid: tensors[int(pid)]).load()


def _member(tar: tarfile.TarFile, name: str, limit: int) -> io.BytesIO:
    """A file of an archive, of at most `limit` bytes, in memory."""
    info = tar.getmember(name)
    if not info.isreg() or info.issparse() or info.size > limit:
        raise tarfile.TarError(f"{name} is not a file, or is sparse or too large")
    member = tar.extractfile(info)
    assert member is not None  # regular files always have content
    return io.BytesIO(member.read())


def _tar_storages(file: io.BytesIO) -> dict[str | int, Storage]:
    """{key: Storage} from a count; (key, offset, type), length and numbers of each storage; and views of storages."""
    storages: dict[str | int, Storage] = {}
    for _ in range(Unpickler(file).load()):
        key, _, kind = Unpickler(file).load()
        storages[checked_key(key)] = storage = Storage(kind)
        (length,) = struct.unpack("<q", file.read(8))
        if length < 0:
            raise ValueError(f"storage {key} has {length} numbers")
        storage.read = functools.partial(bytes, file.read(length * storage.dtype.itemsize))
    for key, root, offset, length in Unpickler(file).load():
        storages[checked_key(key)] = storages[checked_key(root)].view(offset, length)
    return storages


def _tar_tensors(file: io.BytesIO, storages: dict[str | int, Storage]) -> dict[str | int, Tensor]:
    """{key: Tensor} from a count; and (key, storage, type), dimensions, shape, strides and offset of each tensor."""
    tensors = {}
    for _ in range(Unpickler(file).load()):
        key, storage, _ = Unpickler(file).load()
        (ndim,) = struct.unpack("<i4x", file.read(8))  # early versions filled only four of the eight bytes
        if ndim > MAX_DIMENSIONS:
            raise ValueError(f"a tensor with {ndim} dimensions")
        *sizes, offset = struct.unpack(f"<{2 * ndim + 1}q", file.read(8 * (2 * ndim + 1)))
        tensors[checked_key(key)] = Tensor(storages[checked_key(storage)], offset, sizes[:ndim], sizes[ndim:])
    return tensors
