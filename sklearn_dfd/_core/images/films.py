"""Frames of films as images: small values, which are decoded when they are needed."""

import math
import os
from dataclasses import dataclass
from numbers import Real

from PIL import Image

from sklearn_dfd._core.images.decoding import RawFrame, to_rgb
from sklearn_dfd._core.images.film_pool import raw_frame
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.images.sources import LazyImage, describe

__all__ = ["VideoFrame"]


@dataclass(frozen=True, slots=True, repr=False)
class VideoFrame(LazyImage):
    """A frame of a film, which is decoded when it is needed.

    :func:`frames` and :func:`load_video_folder` make these. A frame stands in ``X`` like any other
    image: it is a small value without pixels of its own, which can be hashed, compared and sent to
    other processes. Its features are kept under the content of the film and the time.

    Parameters
    ----------
    path : str or path-like
        Path of the film. A leading ``~`` is the home directory.

    time : float
        The time in seconds that the film records for this frame. Any other time means the frame
        that is shown then, and a time before the first frame means the first one.

    Raises
    ------
    TypeError
        If `path` is not a path, or `time` is not a number.
    ValueError
        If `time` is not finite.

    Examples
    --------
    >>> from sklearn_dfd.datasets import VideoFrame
    >>> VideoFrame("fake/000_003.mp4", 2.5)
    <VideoFrame 2.500 s of 'fake/000_003.mp4'>
    """

    path: str
    time: float

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"path is {describe(self.path)}; it must be the path of a film.")
        if not isinstance(self.time, Real) or isinstance(self.time, bool):
            raise TypeError(f"time is {self.time!r}; it must be a number of seconds.")
        if not math.isfinite(self.time):
            raise ValueError(f"time is {self.time!r}; it must be a finite number of seconds.")
        object.__setattr__(self, "path", os.fsdecode(self.path))
        object.__setattr__(self, "time", float(self.time))

    def __repr__(self) -> str:
        return f"<VideoFrame {self.time:.3f} s of {describe(self.path)}>"

    @property
    def name(self) -> str:
        """Path and time, for messages."""
        return f"{describe(self.path)} at {self.time:.3f} s"

    @property
    def place(self) -> tuple[str, float]:
        """Path and time: frames of one film are read in the order of their times."""
        return self.path, self.time

    def later(self, seconds: float) -> "VideoFrame":
        """Return the frame that is shown some seconds later.

        Parameters
        ----------
        seconds : float
            How many seconds later. The film may end earlier.

        Returns
        -------
        frame : VideoFrame
            A frame of the same film.
        """
        return VideoFrame(self.path, self.time + seconds)

    def read(self) -> RawFrame:
        """Read as much as is needed to recognise the frame.

        Returns
        -------
        raw : RawFrame
            Digest, and how to decode it.

        Raises
        ------
        OSError, ValueError
            If the film is not a regular file that can be read, or is empty.
        """
        return raw_frame(self.path, self.time)

    def to_image(self) -> Image.Image:
        """Decode the frame, to look at it.

        Returns
        -------
        image : PIL image of mode RGB
            The frame, upright, with the stored number of pixels: if pixels are not square, the
            image is wider or narrower than a player shows it.

        Raises
        ------
        ImageError
            If the film cannot be used, or ends before the time.
        """
        (image,) = read_all([self], to_rgb)
        return image
