"""Loaders of labelled photographs and films, and a toy set of manipulated photographs."""

from sklearn_dfd._core.images.films import VideoFrame
from sklearn_dfd.datasets._films import frames, load_video_folder
from sklearn_dfd.datasets._loaders import load_image_folder, load_real_and_fake_faces
from sklearn_dfd.datasets._spliced import make_spliced_photos

__all__ = [
    "VideoFrame",
    "frames",
    "load_image_folder",
    "load_real_and_fake_faces",
    "load_video_folder",
    "make_spliced_photos",
]
