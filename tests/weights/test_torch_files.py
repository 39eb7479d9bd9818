"""PyTorch's weight files: all formats, and hostile files."""
import collections
import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.weights.torch_files import read_torch_file

FORMATS = ("zip", "pickle", "tar")
STATE = {"a.weight": np.arange(600, dtype=np.float32).reshape(2, 3, 100), "a.bias": np.arange(3, dtype=np.float32),
         "count": np.array(7)}


def write_tar(path, state, geometry=None):
    """Write {name: array} in PyTorch's format of 2016: trained tensors as Parameters, others as plain tensors.

    geometry (shape, strides, offset) overrides the description of every tensor.
    """
    def pickled(value):
        return pickle.dumps(value, protocol=2)

    storages, tensors = io.BytesIO(), io.BytesIO()
    storages.write(pickled(len(state)))
    tensors.write(pickled(len(state)))
    keys = {}
    for key, (name, value) in enumerate(state.items(), 100):
        value = np.asarray(value)
        kind = {np.dtype("float32"): "Float", np.dtype("int64"): "Long"}[value.dtype]
        shape, strides, offset = geometry or (value.shape, [stride // value.itemsize for stride in value.strides], 0)
        storages.write(pickled((key, "cpu", getattr(torch, f"{kind}Storage"))))
        storages.write(struct.pack("<q", value.size) + value.tobytes())
        tensors.write(pickled((1000 + key, key, getattr(torch, f"{kind}Storage"))))
        tensors.write(struct.pack("<q", len(shape)))
        tensors.write(struct.pack(f"<{2 * len(shape)}q", *shape, *strides) + struct.pack("<q", offset))
        keys[name] = 1000 + key
    storages.write(pickled([]))

    class Reference:
        def __init__(self, key):
            self.key = key

    class Trained:
        def __init__(self, key):
            self.key = key

        def __reduce__(self):
            return torch.nn.Parameter, (Reference(self.key),), (True, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return str(obj.key) if isinstance(obj, Reference) else None

    main = io.BytesIO()
    content = collections.OrderedDict(
        (name, Trained(key) if name.endswith((".weight", ".bias")) else Reference(key)) for name, key in keys.items()
    )
    Pickler(main, protocol=2).dump(content)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (("sys_info", pickled({"little_endian": True})), ("pickle", main.getvalue()),
                           ("tensors", tensors.getvalue()), ("storages", storages.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class Described:
    """A tensor described as a view of a storage of four numbers, whether it fits or not."""

    def __init__(self, shape, strides, offset):
        self.args = torch.arange(4.0).untyped_storage(), offset, shape, strides

    def __reduce__(self):
        storage, *args = self.args
        typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
        return torch._utils._rebuild_tensor_v2, (typed, *args, False, collections.OrderedDict())


def write_described(path, file_format, geometry):
    """Write a file with one tensor, a.weight, with (shape, strides, offset) in a storage of four numbers."""
    if file_format == "tar":
        write_tar(path, {"a.weight": np.arange(4, dtype=np.float32)}, geometry)
    else:
        torch.save({"a.weight": Described(*geometry)}, path, _use_new_zipfile_serialization=file_format == "zip")
    return str(path)


def memory_of(function, *args):
    """The peak memory of a function that raises UserError, and the error message."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error:
            function(*args)
        return tracemalloc.get_traced_memory()[1], str(error.value)
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- valid files


@pytest.mark.slow
@pytest.mark.parametrize("new", [True, False])
def test_tensors_of_every_kind_equal_pytorchs(new, tmp_path):
    """Compared with torch.load: types, views, shared storages, parameters, scalars; next to an optimizer's state."""
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "view": base[1:, ::2], "turned": base.T, "same": base, "scalar": torch.tensor(5),
        "parameter": torch.nn.Parameter(base[0]),
        **{str(kind): torch.tensor([1, 0, 3]).to(kind) for kind in (
            torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int16, torch.int8, torch.uint8,
            torch.bool)},
    }
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {"state_dict": {**state, **layer.state_dict()}, "optimizer": optimizer.state_dict(),
               "meta": {"CLASSES": ("a", "b")}}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    ours, others = read_torch_file(str(tmp_path / "x.pth"))
    expected = torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]
    assert list(ours) == list(expected) and set(others) == {"optimizer", "meta"}
    assert others["meta"] == {"CLASSES": ("a", "b")}
    for name, value in expected.items():
        value = value.float() if value.dtype == torch.bfloat16 else value
        np.testing.assert_array_equal(ours[name], value.detach().numpy(), name)


@pytest.mark.parametrize("new", [True, False])
def test_the_state_of_a_module(new, tmp_path):
    """An OrderedDict with attributes, the modules' versions; and one with a list of entries, as Python 2 wrote it."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    assert list(read_torch_file(str(tmp_path / "x.pth"))[0]) == list(module.state_dict())

    class OfPython2:
        def __reduce__(self):
            return collections.OrderedDict, ([[name, value] for name, value in module.state_dict().items()],)

    torch.save(OfPython2(), tmp_path / "y.pth", _use_new_zipfile_serialization=new)
    assert list(read_torch_file(str(tmp_path / "y.pth"))[0]) == list(module.state_dict())


@pytest.mark.parametrize("new", [True, False])
def test_entries_besides_weights(new, tmp_path):
    """Everything that torch.load accepts with weights_only, including bytes and number types."""
    others_written = {"bytes": b"a\xff", "random": torch.get_rng_state(), "size": torch.Size([1, 2]), "set": {1, 2},
              "none": None}
    content = {"state_dict": {"a": torch.ones(2)}, **others_written,
               "types": [torch.float32, torch.bfloat16, torch.int64, torch.bool]}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    torch.load(tmp_path / "x.pth", weights_only=True)
    state, others = read_torch_file(str(tmp_path / "x.pth"))
    assert state["a"].tolist() == [1, 1] and others["bytes"] == b"a\xff" and set(others) == {*others_written, "types"}


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_are_named(protocol, new, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match=rf"x.pth: .*protocol {protocol}\b.*\b2\b"):
        read_torch_file(str(tmp_path / "x.pth"))


def test_pytorch_reads_the_tar_files_of_these_tests(tmp_path):
    path = write_tar(tmp_path / "a.pth", STATE)
    expected = torch.load(path, weights_only=False)  # the only way for this format
    ours, _ = read_torch_file(str(path))
    assert list(ours) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value.detach().numpy())


def test_tar_views_and_strides(tmp_path):
    state = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "count": np.array([3, 4])}
    path = write_tar(tmp_path / "a.pth", {"a.weight": state["a.weight"].T, "count": state["count"]})
    # The bytes of a transposed array in memory order, with matching strides.
    ours = read_torch_file(str(path))[0]
    expected = torch.load(path, weights_only=False)
    np.testing.assert_array_equal(ours["a.weight"], expected["a.weight"].detach().numpy())
    np.testing.assert_array_equal(ours["count"], [3, 4])


# ---------------------------------------------------------------- hostile files


class Unsafe:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("file_format", ["zip", "pickle", "tar"])
def test_no_content_of_a_file_is_executed(file_format, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    if file_format == "tar":
        write_tar(path, {"a": np.zeros(1, np.float32)})
        data = pickle.dumps({"a": Unsafe()}, protocol=2)
        with tarfile.open(path, "a") as tar:
            info = tarfile.TarInfo("pickle")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    else:
        torch.save({"a": Unsafe()}, path, _use_new_zipfile_serialization=file_format == "zip")
    with pytest.raises(UserError, match="x.pth: .*(posix|os).system"):
        read_torch_file(str(path))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("damage", ["text", "half zip", "half pickle", "half tar", "empty", "list"])
def test_files_without_weights(damage, tmp_path):
    path = tmp_path / "x.pth"
    if damage == "text":
        path.write_text("hello")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "list":
        torch.save([1, 2], path)
    else:
        if damage == "half tar":
            write_tar(path, STATE)
        else:
            tensors = {name: torch.tensor(value) for name, value in STATE.items()}
            torch.save(tensors, path, _use_new_zipfile_serialization=damage == "half zip")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="x.pth: "):
        read_torch_file(str(path))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("shape, strides, offset", [
    ((2,), (3,), 2), ((5,), (1,), 0), ((2, 2), (1, 2), 1), ((1 << 28,), (1,), 0), ((1 << 40,), (1,), 0),
    ((1 << 16, 1 << 16), (0, 0), 0), ((5,), (0,), 0), ((4, 2), (1, 0), 0), ((1 << 62, 8), (0, 0), 0),
    ((2,), (-1,), 3), ((2,), (1,), -1), ((-1,), (1,), 0), ((0,), (1,), 0), ((1 << 40, 0), (0, 0), 0),
    ((1,) * 40, (1,) * 40, 0),
])
def test_tensors_that_do_not_fit_into_their_storage(file_format, shape, strides, offset, tmp_path):
    path = write_described(tmp_path / "x.pth", file_format, (shape, strides, offset))
    memory, text = memory_of(read_torch_file, path)
    assert memory < 2e6 and "x.pth: " in text and "\n" not in text


@pytest.mark.parametrize("file_format", ["zip", "pickle"])
def test_sizes_and_strides_of_different_lengths(file_format, tmp_path):
    with pytest.raises(UserError, match=r"a.weight .*\b1\b.*\b2\b"):
        read_torch_file(write_described(tmp_path / "x.pth", file_format, ((2,), (1, 1), 0)))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_tensor_that_just_fits(file_format, tmp_path):
    path = write_described(tmp_path / "x.pth", file_format, ((2, 2), (1, 2), 0))
    np.testing.assert_array_equal(read_torch_file(path)[0]["a.weight"], [[0, 2], [1, 3]])
    path = write_described(tmp_path / "x.pth", file_format, ((2, 1), (3, 9), 0))
    np.testing.assert_array_equal(read_torch_file(path)[0]["a.weight"], [[0], [3]])


def nested(depth, wrap):
    """The pickle of a value nested repeatedly, with two copies of it on each level: 2^depth values in a few bytes."""
    return b"\x80\x02}" + b"N" + b"".join(b"q" + bytes([number]) + b"h" + bytes([number]) + wrap
                                          for number in range(depth))


MANY = b"\x8a\x05" + struct.pack("<Q", 1 << 36)[:5]  # 2^36
HUGE = {  # incomplete or complete pickles of a dictionary
    "memo": b"\x80\x02}r\xff\xff\xff\xff.", "bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 28) + b".",
    "bytes8": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 36) + b".", "text": b"\x80\x02X\xff\xff\xff\x7fa.",
    "number": b"\x80\x02\x8b\xff\xff\xff\x7fa.", "bytearray": b"\x80\x02cbuiltins\nbytearray\n" + MANY + b"\x85R.",
    "tensor": b"\x80\x02ctorch\nTensor\n" + MANY + b"\x85R.",
    "key that hashes forever": nested(60, b"\x86") + b"N" + b"s.",
    "deep key": b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.",
    "deep list": b"\x80\x02}U\x01a" + b"]" * 100_000 + b"a" * 99_999 + b"s.", "digits": b"I" + b"9" * 100_000 + b"\n.",
    "one list as many dictionaries":
        b"\x80\x02]q\x00(" + b"".join(b"]M" + struct.pack("<H", n) + b"aNa" for n in range(9000)) + b"e("
        b"ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00\x85R" * 9000 + b"l.",
}


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("what", HUGE)
def test_pickles_that_demand_huge_memory(what, file_format, tmp_path):
    path = tmp_path / "x.pth"
    if file_format == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", HUGE[what])
    elif file_format == "pickle":
        header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(value, 2) for value in header) + HUGE[what])
    else:
        write_tar(path, STATE)
        replace_member(path, "pickle", HUGE[what])
    memory, text = memory_of(read_torch_file, str(path))
    assert memory < 3e7 and "x.pth: " in text and "\n" not in text


@pytest.mark.parametrize("make, part", [
    (lambda: torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
    (lambda: torch.ones(2, dtype=torch.complex64), "ComplexFloatStorage"),
    (lambda: torch.ones(2, device="meta"), "_rebuild_meta_tensor"),
    (lambda: torch.ones(2, dtype=torch.uint16), "_rebuild_tensor_v3"),
])
@pytest.mark.parametrize("new", [True, False])
def test_unsupported_kinds_of_tensors(make, part, new, tmp_path):
    torch.save({"a.weight": make()}, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match=f"x.pth: .*{part}"):
        read_torch_file(str(tmp_path / "x.pth"))


def replace_member(path, name, data, **facts):
    """Append a file of this name to a tar archive, which replaces the earlier one."""
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for fact, value in facts.items():
            setattr(info, fact, value)
        tar.addfile(info, io.BytesIO(data))


def test_a_zip_archive_that_unpacks_to_more_than_its_size(tmp_path):
    torch.save({"a.weight": torch.zeros(2_000_000)}, tmp_path / "x.pth")
    compressed = zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "x.pth") as source, compressed as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    memory, text = memory_of(read_torch_file, str(tmp_path / "y.pth"))
    assert memory < 1e6 and "y.pth: " in text and "larger" in text


def test_a_tar_archive_with_a_hole_or_beyond_its_end(tmp_path):
    path = write_tar(tmp_path / "x.pth", STATE)
    replace_member(path, "storages", b"",
                   pax_headers={"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,0",
                                                       "GNU.sparse.size": str(1 << 36)})
    memory, text = memory_of(read_torch_file, str(path))
    assert memory < 1e6 and "x.pth: " in text and "sparse" in text
    path = write_tar(tmp_path / "y.pth", STATE)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        info = tar.getmember("storages")
    info.size = 1 << 32
    path.write_bytes(data[: info.offset] + info.tobuf() + data[info.offset_data :])
    assert memory_of(read_torch_file, str(path))[0] < 1e6


def test_a_compressed_archive_is_not_pytorchs(tmp_path):
    """Python's tarfile would decompress it to detect the format."""
    (tmp_path / "x.pth").write_bytes(gzip.compress(write_tar(tmp_path / "a.pth", STATE).read_bytes()))
    with pytest.raises(UserError, match="x.pth: .*PyTorch"):
        read_torch_file(str(tmp_path / "x.pth"))


def test_a_safetensors_file_is_named(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"hm.weight": torch.zeros(2)}, str(tmp_path / "a.safetensors"))
    with pytest.raises(UserError, match="a.safetensors: .*safetensors"):
        read_torch_file(str(tmp_path / "a.safetensors"))
