"""The classifier and its run, which are read as those of an ablation."""

from tests.classification.conftest import config, run, stripes

__all__ = ["config", "run", "stripes"]
