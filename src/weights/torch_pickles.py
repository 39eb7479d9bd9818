"""What the pickles in PyTorch's weight files may hold: containers, and tensors that are views of storages; without PyTorch."""
import functools
import math
import pickle
import pickletools
import re
from typing import Any, ClassVar

import numpy as np

# Storage types as NumPy types; sizes and numbers are little-endian. NumPy has no bfloat16: it is the upper half of a float32.
STORAGE_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?", "BFloat16Storage": "<u2",
}
MAX_DIMENSIONS = 32
NUMBER_TYPE = re.compile(r"(b?float|complex|u?int)\d+|bool")  # "float32": settings of an optimizer, or of a training, may name one


class Storage:
    """Numbers of a type, "FloatStorage", that lie somewhere in a file; read() brings their bytes."""

    def __init__(self, kind, read=None):
        if checked_key(kind) not in STORAGE_TYPES:
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
        return Storage(self.kind, lambda: self.read()[offset * self.dtype.itemsize : (offset + length) * self.dtype.itemsize])


class Tensor:
    """A view of a storage, whose numbers are read when they are wanted."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, name):
        """Its numbers, which are not to be changed. Raises ValueError, which calls it `name`, unless its storage has as many."""
        shape, strides, flat = tuple(self.shape), tuple(self.strides), self.storage.flat
        if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
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
    found = {checked_key(key): value for key, value in entries}
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


def checked_key(key):
    """A dictionary's key. Raises UnpicklingError unless it is a name or a number: nested tuples take for ever to hash."""
    if type(key) not in (str, int):
        raise pickle.UnpicklingError(f"unsupported key of type {type(key).__name__}")
    return key


class Unpickler(pickle._Unpickler):
    """Makes containers and descriptions of tensors, and nothing else; it takes memory by the size of the pickle alone.

    It is Python's unpickler in Python: that in C takes memory by the numbers in a pickle. It knows the operations of protocol 2, which
    PyTorch writes. Args: file; persistent_load(pid), which makes a Storage, or a Tensor, of what the pickle says of it.
    """

    dispatch: ClassVar[dict[int, Any]] = {code: load for code, load in pickle._Unpickler.dispatch.items()
                                if pickletools.code2op[chr(code)].proto <= 2}  # type: ignore[attr-defined]
    MADE_BY = {
        ("collections", "OrderedDict"): _mapping, ("collections", "Counter"): _mapping,
        ("torch._utils", "_rebuild_tensor"): Tensor, ("torch._utils", "_rebuild_tensor_v2"): Tensor,
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
        self.stack[-1][checked_key(key)] = value

    def load_setitems(self):
        items = self.pop_mark()
        self.stack[-1].update(zip(map(checked_key, items[::2]), items[1::2]))

    dispatch |= {pickle.PROTO[0]: load_proto, pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem,
                 pickle.SETITEMS[0]: load_setitems}
