"""ONNX graph builder: nodes and constants with readable names. Requires only onnx."""
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
OPSETS = {"deform_conv": 19, "grid_sample": 16}  # first opset with each form of the deformable convolution


class Graph:
    """A graph under construction. Values are referred to by name; duplicate names get a number.

    onnx_dcn is the form of its deformable convolutions, a key of OPSETS; dtype, float32 or float16, the type of the
    network's weights and features.
    """

    def __init__(self, onnx_dcn: str, dtype: str = "float32") -> None:
        self.onnx_dcn, self.opset, self.dtype = onnx_dcn, OPSETS[onnx_dcn], np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.names: set[str] = set()

    def free(self, name: str) -> str:
        """Reserve and return name, or the first unused of name_1, name_2, ..."""
        new, number = name, 0
        while new in self.names:
            number += 1
            new = f"{name}_{number}"
        self.names.add(new)
        return new

    def constant(self, name: str, value: Any) -> str:
        """Add a constant array and return its name; equal arrays with the same name are stored once."""
        value = np.asarray(value)
        stored = self.constants.get(name)
        if stored is not None and stored.dtype == value.dtype and np.array_equal(stored, value):
            return name
        name = self.free(name)
        self.constants[name] = value
        return name

    def weight(self, name: str, value: np.ndarray) -> str:
        """Add a constant of the network's type and return its name."""
        return self.constant(name, value.astype(self.dtype))

    def ints(self, *values: int) -> str:
        """Add a constant list of int64 and return its name."""
        name = "ints_" + "_".join(str(value).replace("-", "minus") for value in values)
        return self.constant(name, np.array(values, np.int64))

    def add(self, operator: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; returns the name of its output, or a list of names. Inputs are names, "" for omitted ones."""
        name = self.free(name or operator.lower())
        made = [name] if outputs == 1 else [self.free(f"{name}_{number}") for number in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), made, name=name, **attributes))
        return name if outputs == 1 else made

    def cast(self, value: str) -> str:
        """Cast a value to float32."""
        return self.add("Cast", value, to=FLOAT)

    def to_network(self, value: str) -> str:
        """A float32 value in the network's type."""
        return value if self.dtype == np.float32 else self.add("Cast", value, to=TensorProto.FLOAT16)

    def from_network(self, value: str) -> str:
        """A value of the network's type in float32."""
        return value if self.dtype == np.float32 else self.cast(value)

    def sources(self, value: str) -> set[str]:
        """All values that a value is computed from, and itself."""
        found = {value}
        for node in reversed(self.nodes):  # each comes after those it reads
            if found.intersection(node.output):
                found.update(node.input)
        return found

    def size(self, value: str, axis: int) -> str:
        """The size of a value along an axis, [1]."""
        return self.add("Gather", self.add("Shape", value), self.ints(axis))

    def reshape(self, value: str, *shapes: str, name: str | None = None) -> str:
        """Reshape a value to the concatenation of int64 lists (0: unchanged, -1: inferred)."""
        shape = shapes[0] if len(shapes) == 1 else self.add("Concat", *shapes, axis=0)
        return self.add("Reshape", value, shape, name=name)

    def model(self, name: str, inputs: dict[str, tuple], outputs: dict[str, tuple],
              metadata: dict[str, str]) -> onnx.ModelProto:
        """Build and check the ModelProto.

        Args: inputs, outputs {name: (NumPy dtype, shape of numbers and names; None for an output's inferred size)};
        metadata {name: string}.
        """
        given, made = ([helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
                        for key, (kind, shape) in values.items()] for values in (inputs, outputs))
        # np.ascontiguousarray would make scalars arrays of shape (1), which Range does not take.
        constants = [numpy_helper.from_array(np.asarray(value, order="C"), key)
                     for key, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, name, given, made, initializer=constants)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports),
                                  producer_name=name)
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        del model.graph.output[:]
        model.graph.output.extend(inferred.graph.output)
        return model
