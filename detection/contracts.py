"""The contracts of the five pluggable parts."""

from collections.abc import Mapping

from detection.errors import UserError


def require_feature_maps(part: str, stages: tuple[str, ...], in_channels: Mapping[str, int]) -> None:
    """Check that the maps a part reads exist.

    Raises:
        UserError: the first that does not, with those that do.
    """
    for stage in stages:
        if stage not in in_channels:
            raise UserError(
                f"{part}: there is no map {stage!r}; the backbone and context give {', '.join(in_channels)}."
            )
