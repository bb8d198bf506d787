"""Photographs and films, made on the spot, with the statistics of those of a camera."""

import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

SIZE = (4000, 3000)
QUALITY = 90
_CELL = 6  # pixels of the small photograph whose contrast is taken together
_BICUBIC = Image.Resampling.BICUBIC


def camera_photograph(image, seed, size=SIZE):
    """Enlarge a photograph, and add the fine detail and the noise that it lacks at that size.

    Natural images have about the same contrast in every octave of frequency. So each octave that
    enlarging leaves empty gets noise of the contrast that the finest one of the photograph has at
    that place. The noise of the sensor grows with brightness, and neighbouring pixels share it in
    part, as they do after demosaicing.

    Parameters
    ----------
    image : PIL image
        The photograph; it is cropped to the aspect of `size`.
    seed : int
    size : tuple of int

    Returns
    -------
    image : PIL image of mode RGB
    """
    rng = np.random.default_rng(seed)
    image = image.convert("RGB")
    scale = min(image.width / size[0], image.height / size[1])
    image = image.crop((0, 0, round(scale * size[0]), round(scale * size[1])))
    grey = image.convert("L")
    blurred = np.asarray(grey.filter(ImageFilter.GaussianBlur(1)), dtype=np.float32)
    contrast = np.abs(np.asarray(grey, dtype=np.float32) - blurred)
    height, width = (side // _CELL for side in contrast.shape)
    cells = contrast[: height * _CELL, : width * _CELL].reshape(height, _CELL, width, _CELL)
    # the median, since what an edge adds to the contrast of its surroundings is not texture
    contrast = Image.fromarray(np.median(cells, axis=(1, 3)))
    contrast = contrast.resize(size, Image.Resampling.BILINEAR)
    pixels = np.array(image.resize(size, _BICUBIC), dtype=np.float32)
    detail = np.zeros(pixels.shape[:2], dtype=np.float32)
    for octave in range(max(1, round(np.log2(1 / scale)))):
        part = (size[1] >> octave, size[0] >> octave)
        noise = Image.fromarray(rng.standard_normal(part, dtype=np.float32))
        detail += np.asarray(noise.resize(size, _BICUBIC))
    pixels += (detail * np.asarray(contrast))[..., np.newaxis]
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    noise = (noise + np.roll(noise, 1, axis=0) + np.roll(noise, 1, axis=1)) / np.sqrt(3)
    pixels += noise * np.sqrt(1 + 0.03 * np.clip(pixels, 0, 255))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def write_camera_photographs(directory, n, sources=None):
    """Write JPEG files of 12 megapixels.

    Parameters
    ----------
    directory : Path
    n : int
        How many.
    sources : list of PIL images, default=None
        What they show; None for parts of scikit-learn's sample photographs.

    Returns
    -------
    paths : list of str
    """
    if sources is None:
        whole = [Image.fromarray(image) for image in load_sample_images().images]
        rng = np.random.default_rng(0)
        corners = rng.integers(0, (240, 127), size=(n, 2)).tolist()
        sources = [
            whole[i % len(whole)].crop((x, y, x + 400, y + 300)) for i, (x, y) in enumerate(corners)
        ]
    paths = [str(directory / f"camera_{i}.jpg") for i in range(n)]
    for i, path in enumerate(paths):
        camera_photograph(sources[i % len(sources)], i).save(path, quality=QUALITY)
    return paths


def write_camera_films(directory, n, seconds=10, size=(1280, 720)):
    """Write films in H.264, 25 frames per second, in which a camera moves over a photograph.

    Parameters
    ----------
    directory : Path
    n : int
        Number of films.
    seconds : int
    size : tuple of int

    Returns
    -------
    paths : list of str
    """
    import av

    paths = [str(directory / f"film {i}.mp4") for i in range(n)]
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for i, path in enumerate(paths):
        margin = np.array(size) // 4
        seen = tuple((np.array(size) + margin).tolist())
        photograph = np.asarray(camera_photograph(photographs[i % len(photographs)], i, seen))
        with av.open(path, "w") as film:
            stream = film.add_stream("libx264", rate=25)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            for step in range(25 * seconds):
                x, y = (margin * (1 + np.sin([step / 31 + i, step / 47])) / 2).astype(int)
                part = np.ascontiguousarray(photograph[y : y + size[1], x : x + size[0]])
                film.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
            film.mux(stream.encode(None))
    return paths
