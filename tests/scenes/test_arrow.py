"""ContextScenes `arrow`: what points where, and what is no help."""

import numpy as np
import pytest

from detection.scenes import arrow, drawing
from detection.scenes.tasks import draw_scene

SIZE = 128


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene("arrow", 1, "train", number, SIZE) for number in range(1, 201)]


def middles(scene):
    rings = np.array([outline.mean(0) for _, outline in scene.objects])
    # The middle of the tip and of the end, half of the arrow's length each way.
    arrows = np.array([(cue[3] + (cue[0] + cue[6]) / 2) / 2 for cue in scene.cues])
    return rings, arrows


def test_each_arrow_points_at_its_ring_and_at_no_other(scenes):
    for scene in scenes:
        rings, arrows = middles(scene)
        tips = np.array([cue[3] for cue in scene.cues])
        assert len(rings) in (2, 3) and len({name for name, _ in scene.objects}) == len(rings)
        for own, (middle, tip) in enumerate(zip(arrows, tips, strict=True)):
            along = (tip - middle) / np.linalg.norm(tip - middle)
            for other, ring in enumerate(rings):
                angle = np.degrees(np.arccos(np.clip((ring - middle) @ along / np.linalg.norm(ring - middle), -1, 1)))
                assert (angle <= 2.001) == (own == other)


def test_arrows_are_as_far_from_all_rings_as_the_knob_says(scenes):
    for scene in scenes:
        for cue in scene.cues:
            for _, outline in scene.objects:
                x0, y0, x1, y1 = drawing.outline_box(outline)
                outside = np.maximum(np.maximum([x0, y0] - cue, cue - [x1, y1]), 0)
                # The knob's distance is from the circle round the arrow.
                assert np.hypot(*outside.T).min() >= 44


def test_neither_the_nearest_nor_the_farthest_arrow_is_more_than_a_guess(scenes):
    chance = np.mean([1 / len(scene.objects) for scene in scenes])
    for choose in (np.argmin, np.argmax):
        right = []
        for scene in scenes:
            rings, arrows = middles(scene)
            right.append(choose(np.linalg.norm(rings[0] - arrows, axis=1)) == 0)
        assert abs(np.mean(right) - chance) < 4 * np.sqrt(chance * (1 - chance) / len(scenes))


def test_control_keeps_arrows_and_draws_their_directions_again():
    turned = 0
    for number in range(1, 41):
        scene, control = (draw_scene("arrow", 1, "val", number, SIZE, cue) for cue in (True, False))
        for cue, other in zip(scene.cues, control.cues, strict=True):
            a, b = ((c[3] + (c[0] + c[6]) / 2) / 2 for c in (cue, other))
            assert np.allclose(a, b)
            turned += not np.allclose(cue, other)
    assert 20 < turned < 90


def test_outline_is_as_long_as_it_says():
    length = np.linalg.norm(arrow.OUTLINE[3] - (arrow.OUTLINE[0] + arrow.OUTLINE[6]) / 2)
    assert length == 1
