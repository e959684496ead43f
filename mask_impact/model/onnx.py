"""The weights in an ONNX file, under the names of the modules that the file was exported from.

In: a file. Out: float32 tensors by name. ONNX is a protocol buffer (onnx.proto3 of the ONNX project); the few of its
fields that hold weights are read here, so that no package for it has to be installed.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

GRAPH = 7  # field of a model
NODE, INITIALIZER = 1, 5  # of a graph
INPUT, NAME = 1, 3  # of a node
DIMS, DATA_TYPE, TENSOR_NAME, RAW_DATA = 1, 2, 8, 9  # of an initializer, which is a tensor
FLOAT = 1  # data type
MATMUL = "/MatMul"  # what the name of a node of this kind ends with, after the path of its module

Fields = dict[int, list[int | memoryview]]


def weights(file: Path) -> dict[str, torch.Tensor]:
    """Every float32 tensor of the file. A matrix that a linear layer was exported as has lost its name, and is stored
    as [in, out]; it is given back as MODULE.weight, [out, in]."""
    (graph,) = _fields(memoryview(bytearray(file.read_bytes())))[GRAPH]
    parts = _fields(graph)
    linear = dict(_linear(_fields(node)) for node in parts[NODE] if _is_matmul(_fields(node)))
    found = {}
    for tensor in map(_fields, parts[INITIALIZER]):
        if tensor[DATA_TYPE] == [FLOAT] and RAW_DATA in tensor:
            name, value = _text(tensor[TENSOR_NAME][0]), _tensor(tensor)
            found[linear.get(name, name)] = value.T.contiguous() if name in linear else value
    return found


def _is_matmul(node: Fields) -> bool:
    return NAME in node and _text(node[NAME][0]).endswith(MATMUL)


def _linear(node: Fields) -> tuple[str, str]:
    """The name of the matrix that a node multiplies by, and the name it had."""
    module = _text(node[NAME][0]).removesuffix(MATMUL).strip("/").replace("/", ".")
    return _text(node[INPUT][1]), f"{module}.weight"


def _tensor(tensor: Fields) -> torch.Tensor:
    shape = [size for field in tensor.get(DIMS, []) for size in _numbers(field)]
    if not math.prod(shape):
        return torch.empty(shape)
    return torch.frombuffer(tensor[RAW_DATA][0], dtype=torch.float32).view(shape).clone()


def _numbers(field: int | memoryview) -> Iterator[int]:
    """Those of a repeated field: one in each value of it, or all packed into one."""
    if isinstance(field, int):
        yield field
        return
    at = 0
    while at < len(field):
        value, at = _number(field, at)
        yield value


def _text(field: int | memoryview) -> str:
    return bytes(field).decode()


def _fields(message: int | memoryview) -> Fields:
    """The values of each field of a message, in order."""
    assert isinstance(message, memoryview), "a message has a length"
    found: Fields = {}
    for field, value in _values(message):
        found.setdefault(field, []).append(value)
    return found


def _values(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _number(message, at)
            yield tag >> 3, value
            continue
        length, at = _number(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield tag >> 3, message[at : at + length]
        at += length


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a byte, seven bits in each, and where the next value begins."""
    value = shift = 0
    while True:
        byte = message[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
