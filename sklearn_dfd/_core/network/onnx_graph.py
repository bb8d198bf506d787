"""ONNX models, written node by node.

MobileNetV2 and its head need a dozen kinds of nodes. An exporter would add a dependency and a
trace, and give less control over what is in the file.
"""

import numpy as np
import torch
from torch import nn

_OPSET, _IR = 17, 8  # from 2022: all releases of onnxruntime since then read them
_PILLOW_ONE = np.float64(2**22)  # a weight of 1 in Pillow's fixed-point arithmetic


class OnnxGraph:
    """A graph to which nodes are added, each with one named output. It needs the package onnx."""

    def __init__(self):
        self._nodes = []
        self._constants = []

    def constant(self, value):
        """Add a tensor or array, and return its name."""
        from onnx import numpy_helper

        value = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator, *inputs, **attributes):
        """Add a node with these inputs, and return the name of its output."""
        from onnx import helper

        name = attributes.pop("name", f"{operator}_{len(self._nodes)}")
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def add_squash(self, images, side):
        """Resize images to a square (aspect ratio not kept), bit for bit as Pillow does.

        ONNX has Resize, but onnxruntime rounds the weights of its filter to 32 bits. One pixel in
        a thousand would then be off by one, and probabilities by up to 1e-3. Here the weights are
        integers, as in Pillow, and so are the sums, which 64 bits hold exactly.

        Parameters
        ----------
        images : str
            Name of images of uint8, of shape (n, height, width, 3).
        side : int
            Side of the square, in pixels.

        Returns
        -------
        pixels : str
            Name of the pixels: whole numbers in float32, of shape (n, 3, side, side).
        """
        from onnx import TensorProto

        shape = self.add("Shape", images)
        x = self.add("Transpose", images, perm=[0, 3, 1, 2])
        x = self.add("Cast", x, to=TensorProto.DOUBLE)
        # along the rows first: Pillow rounds in between
        x = self._add_rounded(self.add("MatMul", x, self._add_filter(shape, 2, side, along=0)))
        x = self._add_rounded(self.add("MatMul", self._add_filter(shape, 1, side, along=1), x))
        return self.add("Cast", x, to=TensorProto.FLOAT)

    def _add_filter(self, shape, axis, side, *, along):
        """Add Pillow's bilinear filter as a matrix of integers.

        The pixels of the image are along axis 1, of shape (side, length), or along axis 0, of shape
        (length, side), because onnxruntime 1.24 cannot multiply by a transposed matrix of doubles.
        """
        from onnx import TensorProto

        one, zero = self.constant(np.float64(1)), self.constant(np.float64(0))
        half = self.constant(np.float64(0.5))
        length = self.add("Gather", shape, self.constant(np.int64(axis)), axis=0)
        start, step = self.constant(np.int64(0)), self.constant(np.int64(1))
        pixels = self.add("Cast", self.add("Range", start, length, step), to=TensorProto.DOUBLE)
        pixels = self.add("Unsqueeze", pixels, self.constant(np.array([1 - along])))
        length = self.add("Cast", length, to=TensorProto.DOUBLE)
        scale = self.add("Div", length, self.constant(np.float64(side)))
        centers = self.add(
            "Mul", self.constant(np.expand_dims(np.arange(side) + 0.5, along)), scale
        )
        distance = self.add("Abs", self.add("Sub", self.add("Add", pixels, half), centers))
        support = self.add("Max", scale, one)
        weight = self.add("Sub", one, self.add("Mul", distance, self.add("Div", one, support)))
        weight = self.add("Max", weight, zero)
        total = self.add("ReduceSum", weight, self.constant(np.array([along])), keepdims=1)
        weight = self.add("Mul", self.add("Div", weight, total), self.constant(_PILLOW_ONE))
        return self.add("Floor", self.add("Add", weight, half))

    def _add_rounded(self, x):
        """Add the rounding of weighted sums to whole pixel values."""
        x = self.add("Add", x, self.constant(_PILLOW_ONE / 2))
        return self.add("Floor", self.add("Div", x, self.constant(_PILLOW_ONE)))

    def add_mirrored(self, pixels):
        """Append the mirror image of each image: n images of shape (3, side, side) become 2n."""
        last, start, end = (self.constant(np.array([i])) for i in (-1, -1, np.iinfo(np.int64).min))
        return self.add("Concat", pixels, self.add("Slice", pixels, start, end, last, last), axis=0)

    def add_trunk(self, trunk, pixels):
        """Add the frozen blocks, from pixels of 0 to 255, of shape (n, 3, side, side), to maps.

        With ``trunk.pool`` the maps are averaged, to shape (n, 1280, 1, 1).
        """
        x = self.add("Sub", pixels, self.constant(trunk.shift))
        x = self.add_blocks(trunk.features, x)
        return self.add("GlobalAveragePool", x) if trunk.pool else x

    def add_blocks(self, blocks, x):
        """Add blocks of MobileNetV2 whose BatchNorm layers are folded, from maps to maps."""
        low, high = self.constant(np.float32(0)), self.constant(np.float32(6))
        for block in blocks:
            start = x
            for layer in block.modules():
                if isinstance(layer, nn.Conv2d):
                    x = self.add(
                        "Conv",
                        x,
                        self.constant(layer.weight),
                        self.constant(layer.bias),
                        strides=layer.stride,
                        pads=layer.padding * 2,
                        group=layer.groups,
                    )
                elif isinstance(layer, nn.ReLU6):
                    x = self.add("Clip", x, low, high)
            if getattr(block, "use_res_connect", False):
                x = self.add("Add", start, x)
        return x

    def model(self, input_shape, output, output_shape):
        """Make a model of the graph, from ``images`` of uint8 to an output of float32.

        Parameters
        ----------
        input_shape, output_shape : list of int or str
            Shapes; strings name the dimensions of any size.
        output : str
            Name of the output.

        Returns
        -------
        model : onnx.ModelProto
        """
        from onnx import TensorProto, helper

        return helper.make_model(
            helper.make_graph(
                self._nodes,
                "sklearn_dfd",
                [helper.make_tensor_value_info("images", TensorProto.UINT8, input_shape)],
                [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)],
                self._constants,
            ),
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR,
        )
