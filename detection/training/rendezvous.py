"""Process groups that `torchrun --max-restarts` starts again.

torchrun's store outlives the processes and still holds the addresses of those that have ended, which new ones would
try to reach (https://github.com/pytorch/pytorch/issues/135712); each start therefore gets a part of the store.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlparse

from accelerate.utils import InitProcessGroupKwargs
from accelerate.utils.dataclasses import KwargsHandler
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

_SCHEME = "restarted"


def group_settings() -> list[KwargsHandler]:
    """Settings of the process group for an `Accelerator`: none where torchrun has not started it again.

    On several machines the number of restarts is not the same everywhere; there
    `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun …` does it.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0" or os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE"):
        return []
    with suppress(RuntimeError):  # it is registered already
        register_rendezvous_handler(_SCHEME, _rendezvous)
    return [InitProcessGroupKwargs(init_method=f"{_SCHEME}://{restarts}")]


def _rendezvous(url: str, **settings: Any) -> Iterator[tuple[PrefixStore, int, int]]:
    store, rank, world_size = next(iter(rendezvous("env://", **settings)))
    # The rest of the URL is this process's rank.
    yield PrefixStore(f"{_SCHEME}-{urlparse(url).netloc}", store), rank, world_size
    raise RuntimeError("a process group that was started again cannot be formed once more")
