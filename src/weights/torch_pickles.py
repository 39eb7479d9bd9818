"""A restricted unpickler for PyTorch's weight files, without PyTorch: containers, and tensors as views of storages."""
import functools
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

# NumPy types of storages; files are little-endian. NumPy lacks bfloat16, which is the upper half of a float32.
STORAGE_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?", "BFloat16Storage": "<u2",
}
MAX_DIMENSIONS = 32
NUMBER_TYPE = re.compile(r"(b?float|complex|u?int)\d+|bool")  # "float32", in settings of an optimizer or a training


class Storage:
    """Numbers of a type, "FloatStorage", somewhere in a file; read() returns their bytes."""

    def __init__(self, kind: str, read: Callable[[], bytes] | None = None):
        if checked_key(kind) not in STORAGE_TYPES:
            raise pickle.UnpicklingError(f"unsupported type torch.{kind}")
        self.kind, self.dtype = kind, np.dtype(STORAGE_TYPES[kind])
        self.read: Any = read  # None, until a reader sets it, raises TypeError in a damaged file

    @functools.cached_property
    def flat(self) -> np.ndarray:
        """The numbers, one-dimensional."""
        flat = np.frombuffer(self.read(), self.dtype)
        return (flat.astype(np.uint32) << 16).view(np.float32) if self.kind == "BFloat16Storage" else flat

    def view(self, offset: int, length: int) -> "Storage":
        """A storage of `length` of its numbers, from `offset` on."""
        if not 0 <= offset <= offset + length:
            raise ValueError("a view of a storage has a negative offset or length")
        size = self.dtype.itemsize
        return Storage(self.kind, lambda: self.read()[offset * size : (offset + length) * size])


class Tensor:
    """A view of a storage, whose numbers are read on demand."""

    def __init__(self, storage: Storage, offset: int, shape: Iterable[int], strides: Iterable[int], *_: object):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, name: str) -> np.ndarray:
        """Its numbers, read-only. Raises ValueError, which calls it `name`, unless it fits into its storage."""
        shape, strides, flat = tuple(self.shape), tuple(self.strides), self.storage.flat
        if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"{name} has {len(shape)} dimensions and {len(strides)} strides")
        if not all(type(number) is int and number >= 0 for number in (self.offset, *shape, *strides)):
            raise ValueError(f"{name} has a size, stride or offset that is not a non-negative integer")
        last = self.offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
        if last >= len(flat) or not 0 < math.prod(shape) <= len(flat):
            raise ValueError(f"{name} is empty, or does not fit into its storage")
        byte_strides = [stride * flat.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], shape, byte_strides, writeable=False)


def _mapping(entries: Any = ()) -> dict:
    """An OrderedDict or Counter as a dictionary. Empties the list of entries, so that a pickle cannot reuse it."""
    if isinstance(entries, dict):
        return entries
    found = {checked_key(key): value for key, value in entries}
    if entries:
        entries.clear()
    return found


def _first(data: Any = None, *_: object) -> Any:
    """The content of a wrapper: a parameter's tensor, a torch.Size's list."""
    return data


def _bytes(text: str, encoding: str) -> bytes:
    """Bytes, which protocol 2 stores as characters with these code points."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unsupported encoding {encoding}")
    return text.encode(encoding)


def checked_key(key: Any) -> Any:
    """Return a key. Raises UnpicklingError unless it is a string or integer: nested tuples hash forever."""
    if type(key) not in (str, int):
        raise pickle.UnpicklingError(f"unsupported key of type {type(key).__name__}")
    return key


class Unpickler(pickle._Unpickler):
    """Creates containers and descriptions of tensors, nothing else. Memory is bounded by the size of the pickle.

    Python's pure-Python unpickler, since the one in C allocates sizes that a pickle states. Limited to the operations
    of protocol 2, which PyTorch writes. Args: file; persistent_load(pid), which returns the Storage or Tensor of an id.
    """

    stack: Any
    read: Any
    pop_mark: Any
    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items()
        if pickletools.code2op[chr(code)].proto <= 2}  # type: ignore[attr-defined]
    MADE_BY = {
        ("collections", "OrderedDict"): _mapping, ("collections", "Counter"): _mapping,
        ("torch._utils", "_rebuild_tensor"): Tensor, ("torch._utils", "_rebuild_tensor_v2"): Tensor,
        ("torch._utils", "_rebuild_parameter"): _first, ("torch._utils", "_rebuild_parameter_with_state"): _first,
        ("torch.nn.parameter", "Parameter"): _first, ("torch.autograd.variable", "Variable"): _first,
        ("torch", "Size"): _first, ("torch", "device"): _first, ("builtins", "set"): _first,
        ("_codecs", "encode"): _bytes,
    }

    def __init__(self, file: Any, persistent_load: Callable[[Any], Storage | Tensor] | None = None):
        super().__init__(file, encoding="utf-8")
        if persistent_load:
            self.persistent_load = persistent_load  # type: ignore[method-assign, assignment]

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)  # Python 2's
        if module == "torch" and (name.endswith(("Storage", "Tensor")) or NUMBER_TYPE.fullmatch(name)):
            return name
        if (module, name) not in self.MADE_BY:
            raise pickle.UnpicklingError(f"unsupported type {module}.{name}")
        return self.MADE_BY[module, name]

    def load_proto(self) -> None:
        if (protocol := self.read(1)[0]) > 2:
            raise pickle.UnpicklingError(f"pickle protocol {protocol}; PyTorch writes protocol 2")

    def load_build(self) -> None:
        """Discard an object's attributes: hooks, module versions."""
        self.stack.pop()

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][checked_key(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(zip(map(checked_key, items[::2]), items[1::2]))

    dispatch |= {pickle.PROTO[0]: load_proto, pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem,
                 pickle.SETITEMS[0]: load_setitems}
