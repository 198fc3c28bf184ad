"""A traced module as one ONNX file, with its local functions and with metadata.

It is torch's exporter of traces (`dynamo=False`): a trace holds what depends on sizes, as the detector needs.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detection.errors import UserError
from detection.export.functions import DOMAIN, functions

OLDEST_OPSET, NEWEST_OPSET = 17, 20
"""Opsets that torch's exporter of traces can write and that have all operators that are used here."""

MAX_BYTES = 2_000_000_000
"""A protobuf message, and so an ONNX file without a second one for its weights, has less than 2 GiB."""


def require_onnx() -> None:
    """Check that `onnx` and `onnxruntime` are installed.

    Raises:
        UserError: they are not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'context-detection[onnx]'.") from None


def write_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    opset: int,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    constants: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Trace a module and write it.

    Args:
        module: in evaluation mode.
        inputs: example inputs by name, in the order of its arguments.
        outputs: names of its outputs.
        path: the file.
        opset: version of ONNX's operators.
        dynamic: names of the axes of any size, of inputs and outputs.
        constants: inputs that become initializers with the example's values.
        metadata: written as JSON.

    Raises:
        UserError: the weights do not fit into one file.
    """
    import onnx

    size = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    if size >= MAX_BYTES:
        raise UserError(
            f"the weights are {size / 1e9:.1f} GB and an ONNX file can hold {MAX_BYTES / 1e9:.0f} GB; export a "
            "detector with fewer channels."
        )
    with torch.no_grad(), _symbolics(), warnings.catch_warnings():
        # What a trace cannot follow is checked by running the file on other sizes, not by warnings.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in (dynamic or {}).items()},
        )
    model = onnx.load(path)
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    model.functions.extend(functions(used, opset))
    for name in constants:
        model.graph.initializer.append(onnx.numpy_helper.from_array(inputs[name].numpy(), name))
        model.graph.input.remove(next(value for value in model.graph.input if value.name == name))
    onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in (metadata or {}).items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


@contextmanager
def _symbolics() -> Iterator[None]:
    """Give torch's exporter the functions that it lacks, or computes with fewer digits, while it runs."""
    added = {"aten::expm1": _expm1, "aten::log_sigmoid": _log_sigmoid}
    for name, function in added.items():
        torch.onnx.register_custom_op_symbolic(name, function, OLDEST_OPSET)  # pyright: ignore[reportPrivateImportUsage]
    try:
        yield
    finally:
        for name in added:
            torch.onnx.unregister_custom_op_symbolic(name, OLDEST_OPSET)  # pyright: ignore[reportPrivateImportUsage]


def _expm1(g: Any, x: Any) -> Any:
    """Return exp(x) − 1 = tanh(x/2)·(exp(x) + 1), which keeps its digits near 0."""
    half = g.op("Tanh", g.op("Mul", x, g.op("Constant", value_t=torch.tensor(0.5))))
    return g.op("Mul", half, g.op("Add", g.op("Exp", x), g.op("Constant", value_t=torch.tensor(1.0))))


def _log_sigmoid(g: Any, x: Any) -> Any:
    """Return log σ(x) = −softplus(−x), which is finite where σ(x) is 0."""
    return g.op("Neg", g.op("Softplus", g.op("Neg", x)))
