"""Too little shared memory ends a training with a sentence; in the main process nothing is shared."""

import shutil
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from detection.data.shared_batches import SharedCollate, require_shared_memory
from detection.errors import UserError
from detection.runs import prediction


@dataclass
class File:
    image: torch.Tensor | None


class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": torch.full((3, 4), index), "file": File(torch.ones(2)), "none": File(None), "id": index}


class Full(torch.Tensor):
    """A tensor for which there is no room."""

    def share_memory_(self):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
        )


class Large(Images):
    def __getitem__(self, index):
        return (torch.ones(2), [torch.ones(3).as_subclass(Full)])


def test_tensors_of_a_loading_process_arrive():
    batches = list(DataLoader(Images(), batch_size=2, num_workers=1, collate_fn=SharedCollate(list)))
    assert [[s["image"][0, 0].item() for s in batch] for batch in batches] == [[0, 1], [2, 3]]
    assert batches[0][0]["image"].is_shared() and batches[0][0]["file"].image.is_shared()


def test_in_the_main_process_nothing_is_shared():
    (batch, *_) = DataLoader(Images(), batch_size=2, collate_fn=SharedCollate(list))
    assert not batch[0]["image"].is_shared()
    assert len(list(DataLoader(Large(), collate_fn=SharedCollate(list)))) == 4


def test_shared_memory_that_is_full_is_a_sentence_in_the_main_process():
    with pytest.raises(UserError, match="^the shared memory in /dev/shm .* data.workers=0, .* --shm-size"):
        list(DataLoader(Large(), num_workers=1, collate_fn=SharedCollate(list)))


def test_without_room_for_a_lock_no_process_is_started(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 8_000))
    require_shared_memory(0)
    with pytest.raises(UserError, match=r"/dev/shm \(0.0 MB are free\) is too small"):
        require_shared_memory(1)


def test_images_are_predicted_without_processes_where_there_is_little_of_it(tmp_path, monkeypatch):
    files = prediction.ImageFiles([tmp_path] * 16, 64, 64)
    monkeypatch.setattr(prediction, "usable_cores", lambda: 4)
    for free, workers in ((64_000_000, 0), (8_000_000_000, 2)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(9, 9, free))
        assert prediction.image_batches(files, 2).num_workers == workers
