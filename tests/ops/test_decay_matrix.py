"""Long lines in pieces are as in one."""

import pytest
import torch

from detection.ops.sweep.decay_matrix import state_space_dual


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_state_goes_through_several_pieces(masked, reverse, monkeypatch):
    torch.manual_seed(0)
    b, lines, length, heads, size, states = 2, 3, 9, 2, 4, 3
    x, step = torch.randn(b, lines, length, size).double(), torch.rand(b, lines, length, heads).double()
    read, taken = torch.randn(2, b, lines, length, states).double()
    # Whole lines, and holes of which some are within a piece and some are all of it.
    inside = torch.rand(b, lines, length) > 0.25 if masked else None
    if inside is not None:
        inside[0], inside[1, 0, 2:4] = True, False
    arguments = x, step, -torch.rand(heads).double(), taken, read, inside, reverse
    whole = state_space_dual(*arguments)
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 2)
    torch.testing.assert_close(state_space_dual(*arguments), whole)
