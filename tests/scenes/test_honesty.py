"""ContextScenes: what a trained network can tell of an object's class from the object alone, and from its place alone.

Where a task says that context tells the class, the object's own pixels are worth no more than a guess; where it says
that the object does, they are worth much more. One object of a held-out image is asked for (two are trained on):
objects of an image may share their class, and then their answers are no independent trials.
"""

import functools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detection.scenes import drawing
from detection.scenes.tasks import TASKS, draw_scene

SIZE, SIDE, PICTURES = 96, 24, 250
SHOWN_BY_CONTEXT = ("arrow", "beacon", "count", "distance", "row", "surround")
SHOWN_BY_THE_OBJECT = ("shapes", "tiny")


@functools.cache
def samples(task, split, cue=True):
    """Crops (N, 3, SIDE, SIDE) of the boxes alone, places (N, 7) and classes (N,) of a split's objects.

    A place is the box's middle, its size (no side by side: a half-disc is longer than a circle), how many objects there
    are, and the image's number, plain and by the remainders that a careless generator would give away.
    """
    crops, places, classes = [], [], []
    for number in range(1, PICTURES + 1):
        scene = draw_scene(task, 0, split, number, SIZE, cue)
        for name, outline in scene.objects[: 2 if split == "train" else 1]:
            x0, y0, x1, y1 = box = drawing.outline_box(outline)
            # Whole pixels inside the box: not one outside it has a say.
            if not cue:  # what is drawn has another box of the same area: the form of the right one is no pixel's
                half = np.sqrt((x1 - x0) * (y1 - y0)) / 2
                box = np.array([x0 + x1, y0 + y1, x0 + x1, y0 + y1]) / 2 + half * np.array([-1, -1, 1, 1])
            inside = (*np.ceil(box[:2]).astype(int), *np.floor(box[2:]).astype(int))
            crop = Image.fromarray(scene.image).crop(inside).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            crops.append(np.asarray(crop, np.float32).transpose(2, 0, 1) / 128 - 1)
            extent = np.sqrt((x1 - x0) * (y1 - y0))
            order = [number, number % 2, number % 3]
            places.append([(x0 + x1) / 2, (y0 + y1) / 2, extent, len(scene.objects), *order])
            classes.append(TASKS[task].categories.index(name))
    places = np.array(places, np.float32)
    return torch.tensor(np.stack(crops)), torch.tensor(places), torch.tensor(classes)


def accuracy(network, inputs, classes, held_out, held_out_classes, epochs):
    """Train a network from a fixed start and return its accuracy on what it was not trained on."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(64):
            loss = nn.functional.cross_entropy(network(inputs[batch]), classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    return (network(held_out).argmax(1) == held_out_classes).float().mean().item()


def from_crops(task, cue=True):
    torch.manual_seed(0)
    (crops, _, classes), (held_out, _, ground_truth) = samples(task, "train", cue), samples(task, "val", cue)
    layers = []
    for channels in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(*channels, 3, 2, 1), nn.BatchNorm2d(channels[1]), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (SIDE // 4) ** 2, len(TASKS[task].categories)))
    return accuracy(network, crops, classes, held_out, ground_truth, epochs=10)


def from_places(task, cue=True):
    torch.manual_seed(0)
    (_, places, classes), (_, held_out, ground_truth) = samples(task, "train", cue), samples(task, "val", cue)
    mean, spread = places.mean(0), places.std(0) + 1e-6
    network = nn.Sequential(nn.Linear(7, 32), nn.ReLU(), nn.Linear(32, len(TASKS[task].categories)))
    return accuracy(network, (places - mean) / spread, classes, (held_out - mean) / spread, ground_truth, epochs=30)


def best_guess(task):
    """Chance and three standard deviations of as many guesses as there are held-out objects."""
    chance = 1 / len(TASKS[task].categories)
    return chance + 3 * np.sqrt(chance * (1 - chance) / PICTURES)


@pytest.mark.parametrize("task", SHOWN_BY_CONTEXT)
def test_the_object_alone_is_at_chance(task):
    assert from_crops(task) <= best_guess(task)


@pytest.mark.parametrize("task", SHOWN_BY_THE_OBJECT)
def test_the_object_alone_shows_the_class_where_it_should_and_its_control_does_not(task):
    assert from_crops(task) >= 2 / len(TASKS[task].categories)
    assert from_crops(task, cue=False) <= best_guess(task)


@pytest.mark.parametrize("task", SHOWN_BY_CONTEXT + SHOWN_BY_THE_OBJECT)
def test_place_size_and_number_are_at_chance(task):
    assert from_places(task) <= best_guess(task)


@pytest.mark.parametrize("task", SHOWN_BY_CONTEXT + SHOWN_BY_THE_OBJECT)
def test_classes_are_balanced(task):
    """Over images, as objects of one may share their class: within four standard deviations of equal parts."""
    _, _, classes = samples(task, "val")
    share = 1 / len(TASKS[task].categories)
    counts = np.bincount(classes, minlength=len(TASKS[task].categories))
    assert np.abs(counts - share * len(classes)).max() <= 4 * np.sqrt(len(classes) * share * (1 - share))
