"""Rows of several images, against loops over the images."""

import pytest
import torch

from detection.ops.ragged import Ragged, image_indices, positions

CPU = torch.device("cpu")


@pytest.mark.parametrize("counts", [(3, 0, 2), (0,), (0, 0), (4,), (0, 5, 0, 1)])
def test_padding_and_taking(counts):
    images = [torch.rand(count, 4) for count in counts]
    ragged, most = Ragged.of(images), max(1, *counts)
    for chosen in (None, list(range(len(counts)))[::-1], [0]):
        padded, inside = ragged.padded(chosen)
        own = images if chosen is None else [images[i] for i in chosen]
        assert padded.shape == (len(own), max(1, *(len(rows) for rows in own), 0), 4)
        for rows, row, ok in zip(own, padded, inside, strict=True):
            assert torch.equal(row[: len(rows)], rows) and ok.sum() == len(rows) and ok[: len(rows)].all()
            assert not row[len(rows) :].any()
    indices = torch.stack([torch.randint(-2, max(count, 1), (6,)) for count in counts])
    for rows, index, taken in zip(images, indices, ragged.take(indices), strict=True):
        assert torch.equal(taken, rows[index.clamp(min=0)] if len(rows) else torch.zeros(6, 4))
    assert all(torch.equal(a, b) for a, b in zip(ragged.split(), images, strict=True))
    assert image_indices(counts, CPU).tolist() == [i for i, count in enumerate(counts) for _ in range(count)]
    expected = [i * most + j for i, count in enumerate(counts) for j in range(count)]
    assert positions(counts, most, CPU).tolist() == expected


def test_rows_of_each_image_are_followed_by_others():
    first, second = ([torch.rand(count, 4) for count in counts] for counts in ((3, 0, 2), (1, 4, 0)))
    both = Ragged.of(first).followed_by(Ragged.of(second))
    assert both.counts == (4, 4, 2)
    for rows, *pair in zip(both.split(), first, second, strict=True):
        assert torch.equal(rows, torch.cat(pair))
