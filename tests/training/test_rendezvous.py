"""Process groups that torchrun starts again find one another, and none of the addresses that ended processes left."""

import pytest
from torch.distributed import HashStore

from detection.training import rendezvous


@pytest.mark.parametrize(
    ("restarts", "local", "world", "expected"),
    [("0", "2", "2", []), ("3", "2", "4", []), ("3", "2", "2", ["restarted://3"])],
)
def test_only_a_group_of_one_machine_that_was_started_again(monkeypatch, restarts, local, world, expected):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert [settings.init_method for settings in rendezvous.group_settings()] == expected


def test_each_start_has_a_part_of_the_store(monkeypatch):
    store = HashStore()
    store.set("address", "of a process that has ended")
    monkeypatch.setattr(rendezvous, "rendezvous", lambda url, **settings: iter([(store, 0, 2)]))
    urls = [f"restarted://{start}?rank={rank}&world_size=2" for start in (1, 2) for rank in (0, 1)]
    first, other, second, _ = [next(rendezvous._rendezvous(url))[0] for url in urls]
    first.set("address", "new")
    assert other.get("address") == b"new" and not second.check(["address"])
