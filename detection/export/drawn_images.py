"""Drawn images, for a comparison without any others."""

import numpy as np


def drawn_images(count: int, height: int = 240, width: int = 320) -> list[np.ndarray]:
    """Draw images (H, W, 3) uint8 RGB of colored rectangles on noise, the same in every call."""
    generator = np.random.default_rng(0)
    images = []
    for _ in range(count):
        image = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
        for _ in range(8):
            rows, columns = generator.integers(height // 10, height // 2), generator.integers(width // 10, width // 2)
            top, left = generator.integers(0, height - rows), generator.integers(0, width - columns)
            image[top : top + rows, left : left + columns] = generator.integers(0, 256, 3)
        images.append(image)
    return images
