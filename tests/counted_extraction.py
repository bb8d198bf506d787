"""Extraction by a network that counts what it sees, without torch."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from sklearn_dfd._core.extraction import Extraction
from sklearn_dfd._core.images.decoding import Decoding

SIDE = 8
WIDTH = SIDE * SIDE * 3
DECODING = Decoding(SIDE)
RECIPE = "pixels as they are"
PATIENCE = 30  # seconds, of a lease that lasts 120


def make_pixels(n):
    return np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def rows_of(pixels):
    """What the network of these tests makes of pixels."""
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 7


class Network:
    """Function from pixels to rows that notes how often each image went through."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.seen = []

    def __call__(self, pixels):
        time.sleep(self.seconds)
        self.seen.extend(image.tobytes() for image in pixels)
        return rows_of(pixels)

    def assert_saw_once(self, pixels):
        assert sorted(self.seen) == sorted(image.tobytes() for image in pixels)


def write(directory, pixels):
    paths = [directory / f"{i}.png" for i in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path, compress_level=0)
    return paths


def extract(images, run, store, *, batch_size=4, go_on=False, n_threads=2):
    """Survey and compute, in a pool of its own."""
    with ThreadPoolExecutor(n_threads) as pool:
        extraction = Extraction(images, WIDTH, RECIPE, store, pool, DECODING)
        extraction.survey()
        extraction.compute(run, batch_size, go_on=go_on)
    return extraction
