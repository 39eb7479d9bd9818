"""Reading PyTorch's weight files without PyTorch and without running what they hold; writing them, which needs PyTorch.

All three of its formats describe tensors in a pickle, each a view of a storage, whose numbers lie elsewhere in the file. What a file says
of itself is not trusted: a storage is as long as its bytes, and a tensor lies inside its storage and is no larger.
"""
import contextlib
import functools
import io
import math
import mmap
import os
import pickle
import pickletools
import re
import struct
import tarfile
import zipfile
import zlib

import numpy as np

from src import errors
from src.errors import UserError
from src.project import how_to_install
from src.utils import unmarked, whole_file

# Storage types as NumPy types; sizes and numbers are little-endian. NumPy has no bfloat16: it is the upper half of a float32.
STORAGE_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?", "BFloat16Storage": "<u2",
}
MAGIC = 0x1950A86A20F9469CFC6C  # what the format of one pickle after another begins with
MOST_DIMENSIONS = 32
NUMBER_TYPE = re.compile(r"(b?float|complex|u?int)\d+|bool")  # "float32": settings of an optimizer, or of a training, may name one


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
    with whole_file(path, unmarked) as partial:
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
        if not isinstance(value, _Tensor):
            raise UserError(f"{name} is no tensor ({type(value).__name__}); it holds no state dict of weights")
    return {str(name): value.array(name) for name, value in content.items()}, others


# ---------------------------------------------------------------- what the pickles describe


class _Storage:
    """Numbers of a type, "FloatStorage", that lie somewhere in a file; read() brings their bytes."""

    def __init__(self, kind, read=None):
        if _key(kind) not in STORAGE_TYPES:
            raise pickle.UnpicklingError(f"unsupported type torch.{kind}")
        self.kind, self.dtype, self.read = kind, np.dtype(STORAGE_TYPES[kind]), read

    @functools.cached_property
    def flat(self):
        """The numbers, an array of one dimension."""
        flat = np.frombuffer(self.read(), self.dtype)
        return (flat.astype(np.uint32) << 16).view(np.float32) if self.kind == "BFloat16Storage" else flat

    def part(self, offset, length):
        """A storage of some of its numbers."""
        if not 0 <= offset <= offset + length:
            raise ValueError("a storage begins before another one, whose part it is")
        return _Storage(self.kind, lambda: self.read()[offset * self.dtype.itemsize : (offset + length) * self.dtype.itemsize])


class _Tensor:
    """A view of a storage, whose numbers are read when they are wanted."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, name):
        """Its numbers, which are not to be changed. Raises ValueError, which calls it `name`, unless its storage has as many."""
        shape, strides, flat = tuple(self.shape), tuple(self.strides), self.storage.flat
        if len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"{name} has {len(shape)} dimensions and {len(strides)} strides")
        if not all(type(number) is int and number >= 0 for number in (self.offset, *shape, *strides)):
            raise ValueError(f"{name} has a size, stride or offset that is no whole number from 0 on")
        last = self.offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
        if last >= len(flat) or not 0 < math.prod(shape) <= len(flat):
            raise ValueError(f"{name} lies outside its storage, or is larger, or empty")
        return np.lib.stride_tricks.as_strided(flat[self.offset :], shape, [stride * flat.itemsize for stride in strides], writeable=False)


def _mapping(entries=()):
    """An OrderedDict, or a Counter, as a dictionary. The list of its entries is used up: it cannot be made twice of one list."""
    if isinstance(entries, dict):
        return entries
    found = {_key(key): value for key, value in entries}
    if entries:
        entries.clear()
    return found


def _first(data=None, *_):
    """What a wrapper holds: a parameter's tensor, a torch.Size's list."""
    return data


def _bytes(text, encoding):
    """Bytes, which protocol 2 has as the letters of the same numbers."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unsupported encoding {encoding}")
    return text.encode(encoding)


def _key(key):
    """A dictionary's key. Raises UnpicklingError unless it is a name or a number: nested tuples take for ever to hash."""
    if type(key) not in (str, int):
        raise pickle.UnpicklingError(f"unsupported key of type {type(key).__name__}")
    return key


class _Unpickler(pickle._Unpickler):
    """Makes containers and descriptions of tensors, and nothing else; it takes memory by the size of the pickle alone.

    It is Python's unpickler in Python: that in C takes memory by the numbers in a pickle. It knows the operations of protocol 2, which
    PyTorch writes. Args: file; persistent_load(pid), which makes a _Storage, or a _Tensor, of what the pickle says of it.
    """

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if pickletools.code2op[chr(code)].proto <= 2}
    MADE_BY = {
        ("collections", "OrderedDict"): _mapping, ("collections", "Counter"): _mapping,
        ("torch._utils", "_rebuild_tensor"): _Tensor, ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_parameter"): _first, ("torch._utils", "_rebuild_parameter_with_state"): _first,
        ("torch.nn.parameter", "Parameter"): _first, ("torch.autograd.variable", "Variable"): _first, ("torch", "Size"): _first,
        ("torch", "device"): _first, ("builtins", "set"): _first, ("_codecs", "encode"): _bytes,
    }

    def __init__(self, file, persistent_load=None):
        super().__init__(file, encoding="utf-8")
        if persistent_load:
            self.persistent_load = persistent_load

    def find_class(self, module, name):
        module = {"__builtin__": "builtins"}.get(module, module)  # Python 2's
        if module == "torch" and (name.endswith(("Storage", "Tensor")) or NUMBER_TYPE.fullmatch(name)):
            return name
        if (module, name) not in self.MADE_BY:
            raise pickle.UnpicklingError(f"unsupported type {module}.{name}")
        return self.MADE_BY[module, name]

    def load_proto(self):
        if (protocol := self.read(1)[0]) > 2:
            raise pickle.UnpicklingError(f"a pickle of protocol {protocol}; that of PyTorch's own is 2")

    def load_build(self):
        """Drop the attributes of an object: hooks, versions of modules."""
        self.stack.pop()

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_key(key)] = value

    def load_setitems(self):
        items = self.pop_mark()
        self.stack[-1].update(zip(map(_key, items[::2]), items[1::2]))

    dispatch |= {pickle.PROTO[0]: load_proto, pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem,
                 pickle.SETITEMS[0]: load_setitems}


# ---------------------------------------------------------------- the formats


def _reader(file):
    """What reads an open file: it returns the content, with _Tensors in it, which read from the file."""
    start = file.read(4)
    file.seek(0)
    if start == b"PK\3\4":
        return _read_zip
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
        return _Storage(kind, functools.partial(archive.read, f"{root}data/{_key(key)}"))

    return _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")), described).load()


def _read_pickles(file):
    """PyTorch's format before 1.6: a magic number, a version, facts of the machine, the content, the storages' keys, and their numbers."""
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # which reads no further than the end, and takes no memory for more
    if _Unpickler(data).load() != MAGIC:
        raise pickle.UnpicklingError("unsupported pickle: no magic number")
    _Unpickler(data).load()
    if not _Unpickler(data).load()["little_endian"]:
        raise ValueError("its numbers are big-endian")
    storages = {}

    def described(pid):
        _, kind, key, _, _, *view = pid
        if any(view):
            raise pickle.UnpicklingError("unsupported view of a storage")
        return storages.setdefault(_key(key), _Storage(kind))

    content = _Unpickler(data, described).load()
    for key in _Unpickler(data).load():
        (length,) = struct.unpack("<q", data.read(8))
        storage, start = storages[_key(key)], data.tell()
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
        return _Unpickler(_member(tar, "pickle", _size(file)), lambda pid: tensors[int(pid)]).load()


def _member(tar, name, most):
    """A file of an archive of `most` bytes, in memory."""
    info = tar.getmember(name)
    if not info.isreg() or info.issparse() or info.size > most:
        raise tarfile.TarError(f"{name} is no file, or one with holes")
    return io.BytesIO(tar.extractfile(info).read())


def _tar_storages(file):
    """{key: _Storage}: a count; for each storage its (key, offset, type), its length and its numbers; views of others."""
    storages = {}
    for _ in range(_Unpickler(file).load()):
        key, _, kind = _Unpickler(file).load()
        storages[_key(key)] = storage = _Storage(kind)
        (length,) = struct.unpack("<q", file.read(8))
        if length < 0:
            raise ValueError(f"storage {key} has {length} numbers")
        storage.read = functools.partial(bytes, file.read(length * storage.dtype.itemsize))
    for key, root, offset, length in _Unpickler(file).load():
        storages[_key(key)] = storages[_key(root)].part(offset, length)
    return storages


def _tar_tensors(file, storages):
    """{key: _Tensor}: a count; for each tensor its (key, storage, type), dimensions, shape, strides and offset."""
    tensors = {}
    for _ in range(_Unpickler(file).load()):
        key, storage, _ = _Unpickler(file).load()
        (ndim,) = struct.unpack("<i4x", file.read(8))  # of the eight bytes, early versions filled four
        if ndim > MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {ndim} dimensions")
        *sizes, offset = struct.unpack(f"<{2 * ndim + 1}q", file.read(8 * (2 * ndim + 1)))
        tensors[_key(key)] = _Tensor(storages[_key(storage)], offset, sizes[:ndim], sizes[ndim:])
    return tensors
