"""Tensors that pretend to be on CUDA and are computed on the CPU, so that code for a GPU is tested where there is none.

An operation that mixes them with tensors of the host raises as it would on a GPU, and each wait of the host is counted
by its place in the package. Kernels of cuDNN and Triton do not run, nor streams, and autocast leaves types as they are.
"""

import sys
from collections import Counter
from contextlib import ExitStack, nullcontext
from pathlib import Path
from unittest.mock import MagicMock, patch

import torch
import torchvision  # noqa: F401, for its operations
from torch._decomp import decomposition_table
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

PACKAGE = f"{Path(__file__).parents[1] / 'detection'}/"
CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
MOVES = {aten._to_copy, aten.copy_}
# Operations of which the host has to know the size or the value of the result; `nms` is torchvision's.
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.equal}
WAITING |= {aten.unique_consecutive, aten.bincount, aten.repeat_interleave, torch.ops.torchvision.nms}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # also by indices of the host
# These take a number of the host, as all operations element by element do.
WITH_NUMBERS = INDEXED | {aten.where, aten.masked_fill, aten.masked_fill_, aten.fill_}


class Pretended(torch.Tensor):
    """A tensor on CUDA to Python, and one on `meta` to autograd; its `values` are on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, values):
        like = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device="meta")
        made = torch.Tensor._make_subclass(cls, like, values.requires_grad, device_for_backend_keys=CUDA)
        made.values = values.detach()
        return made

    def __repr__(self, **kwargs):
        return f"Pretended({self.values})"

    def __reduce_ex__(self, protocol):
        return self.values.__reduce_ex__(protocol)

    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, data, *, dtype=None, device=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or CUDA)

    def record_stream(self, stream):
        pass

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _call(function, args, kwargs or {})


class PretendedCuda:
    """Make `device="cuda"` give `Pretended` tensors inside.

    Attributes:
        waits: number of waits by operation and line, such as `nonzero at heads/candidates.py:41`.
    """

    now: "PretendedCuda | None" = None

    def __init__(self):
        self.waits, self._stack = Counter(), ExitStack()

    def __enter__(self):
        for owner, replaced in _REPLACED.items():
            for name, value in replaced.items():
                self._stack.enter_context(patch.object(owner, name, value))
        self._stack.enter_context(patch.object(PretendedCuda, "now", self))
        self._stack.enter_context(_Mode())
        return self

    def __exit__(self, *error):
        self._stack.close()


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _call(function, args, kwargs or {})


def _call(function, args, kwargs):
    kind, given = function.overloadpacket, dict[int, Pretended]()
    everything = tensors_in((args, kwargs))
    host = [t for t in everything if not isinstance(t, Pretended)]
    mixed = host and len(host) < len(everything)
    wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    # PyTorch itself makes tensors like these on `meta`.
    there = wanted == "cuda" or (wanted == "meta" and torch.get_default_device().type != "meta")
    there = there or (wanted is None and isinstance(everything[0] if kind is aten.copy_ else None, Pretended))
    there = there or (wanted is None and kind is not aten.copy_ and len(host) < len(everything))
    if mixed and kind not in MOVES:
        _require_one_device(function, args, host)
    if (generator := kwargs.get("generator")) is not None and generator.device.type != ("cuda" if there else "cpu"):
        raise RuntimeError(f"{function}: a generator on {generator.device}")
    _count_wait(kind, args, kwargs, everything, host, there)
    if there and function.name() in OPDEFS:
        with _Mode():  # our own operators choose their code by the device
            return OPDEFS[function.name()]._init_fn(*args, **kwargs)
    settings = {**kwargs, "device": torch.device("cpu")} if wanted and there else kwargs
    args, settings = tree_map_only(Pretended, lambda t: given.setdefault(id(t.values), t).values, (args, settings))
    try:
        found = function(*args, **settings)
    except NotImplementedError:  # an operation of CUDA alone
        found = decomposition_table[function](*args, **settings)
    if not there:
        return found
    return tree_map_only(torch.Tensor, lambda t: given[id(t)] if id(t) in given else Pretended(t), found)


def tensors_in(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _require_one_device(function, args, host):
    kind = function.overloadpacket
    if kind in INDEXED and isinstance(args[0], Pretended):
        host = [t for t in host if all(t is not index for index in args[1])]
    if torch.Tag.pointwise in function.tags or kind in WITH_NUMBERS:
        host = [t for t in host if t.ndim]
    if host:
        shapes = ", ".join(str(tuple(t.shape)) for t in host)
        raise RuntimeError(f"{function}: on CUDA, and tensors of the shapes {shapes} on the CPU")


def _count_wait(kind, args, kwargs, everything, host, there):
    if kind in MOVES:
        blocks = not (kwargs.get("non_blocking") or args[2:3] == (True,))
        waits = blocks and there != isinstance(everything[-1], Pretended)
    elif kind in INDEXED:
        indices = [t for t in args[1] if t is not None]
        waits = there and any(not isinstance(t, Pretended) or t.dtype in (torch.bool, torch.uint8) for t in indices)
    else:
        waits = len(host) < len(everything) and kind in WAITING and kwargs.get("output_size") is None
    if waits:
        frame = sys._getframe()
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        line = f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}" if frame else "elsewhere"
        name = ("copy to the device" if there else "copy to the host") if kind in MOVES else kind.__name__
        PretendedCuda.now.waits[f"{name} at {line}"] += 1


def _made_on_the_host(make):
    """Make values on the host and move them, as `torch.tensor` does, which asks the driver for the device."""

    def made(*args, device=None, **kwargs):
        if device is None or torch.device(device).type != "cuda":
            return make(*args, device=device, **kwargs)
        return make(*args, **kwargs).to(device)

    return made


def _moved(tensor, *args, copy=False, _to=torch.Tensor.to, **kwargs):
    """`Tensor.to` with the number of the device, without a copy where nothing changes."""
    device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
    if device is not None and device.type == "cuda":
        device = CUDA
        if isinstance(tensor, Pretended) and dtype in (None, tensor.dtype) and layout is None and not copy:
            return tensor
    settings = {"device": device, "dtype": dtype, "memory_format": layout}
    settings = {name: value for name, value in settings.items() if value is not None}
    return _to(tensor, non_blocking=non_blocking, copy=copy, **settings)


def _keeps_parameters(old, new, _keeps=torch._has_compatible_shallow_copy_type):
    """Whether a module that is moved keeps a parameter; on another device it gets another."""
    return old is new if isinstance(old, Pretended) or isinstance(new, Pretended) else _keeps(old, new)


_STREAM = MagicMock(**{"is_capturing.return_value": False})
_REPLACED = {
    torch: {
        "tensor": _made_on_the_host(torch.tensor),
        "as_tensor": _made_on_the_host(torch.as_tensor),
        "_has_compatible_shallow_copy_type": _keeps_parameters,
    },
    torch.Tensor: {"to": _moved, "cuda": lambda t: t.to(CUDA), "pin_memory": lambda t: t},
    torch.accelerator: {"current_stream": lambda *args: _STREAM},
    torch.cuda: {
        "is_available": lambda: True,
        "is_bf16_supported": lambda *args: True,
        "is_current_stream_capturing": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *args: "pretended",
        "get_device_capability": lambda *args: (9, 0),
        "max_memory_allocated": lambda *args: 0,
        "get_rng_state": lambda *args: torch.get_rng_state(),
        "Stream": MagicMock(),
        "current_stream": lambda *args: _STREAM,
        **dict.fromkeys(("stream", "device", "device_of"), lambda *args: nullcontext()),
        **dict.fromkeys(("_lazy_init", "set_device", "set_rng_state", "synchronize"), lambda *args: None),
        **dict.fromkeys(("manual_seed", "manual_seed_all"), lambda seed: None),
    },
}
