"""Writing ONNX graphs: nodes and constants with readable names. Needs onnx alone."""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
OPSETS = {"deform_conv": 19, "grid_sample": 16}  # of each form of the deformable convolution, the first that has its operator


class Graph:
    """A graph that grows node by node; every value is a name, and names that would be there twice get a number.

    onnx_dcn is the form of its deformable convolutions, a key of OPSETS.
    """

    def __init__(self, onnx_dcn):
        self.onnx_dcn, self.opset = onnx_dcn, OPSETS[onnx_dcn]
        self.nodes, self.constants, self.names = [], {}, set()

    def free(self, name):
        """name, or name_1, name_2, ..., whichever is new."""
        new, number = name, 0
        while new in self.names:
            number += 1
            new = f"{name}_{number}"
        self.names.add(new)
        return new

    def constant(self, name, value):
        """The name of a constant array; equal arrays of one name are kept once."""
        value = np.asarray(value)
        if name in self.constants and self.constants[name].dtype == value.dtype and np.array_equal(self.constants[name], value):
            return name
        name = self.free(name)
        self.constants[name] = value
        return name

    def ints(self, *values):
        """The name of a constant list of int64."""
        return self.constant("ints_" + "_".join(str(value).replace("-", "minus") for value in values), np.array(values, np.int64))

    def add(self, operator, *inputs, name=None, outputs=1, **attributes):
        """Append a node; returns the name of its output, or the list of them. Inputs are names, "" for one that is left out."""
        name = self.free(name or operator.lower())
        made = [name] if outputs == 1 else [self.free(f"{name}_{number}") for number in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), made, name=name, **attributes))
        return name if outputs == 1 else made

    def cast(self, value):
        """A value as float32."""
        return self.add("Cast", value, to=FLOAT)

    def size(self, value, axis):
        """A side of a value, [1]."""
        return self.add("Gather", self.add("Shape", value), self.ints(axis))

    def reshape(self, value, *parts, name=None):
        """A value in the shape that lists of int64, one behind the other, say (0: as before, -1: what remains)."""
        shape = parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0)
        return self.add("Reshape", value, shape, name=name)

    def model(self, name, inputs, outputs, metadata):
        """The checked ModelProto. Args: inputs, outputs {name: (NumPy dtype, shape with numbers and names)}; metadata {name: text}."""
        described = [[helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
                      for key, (kind, shape) in part.items()] for part in (inputs, outputs)]
        constants = [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, name, *described, initializer=constants)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports), producer_name=name)
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model
