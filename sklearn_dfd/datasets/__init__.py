"""Loaders of labelled photographs, and a toy set of manipulated ones to try the package on."""

from sklearn_dfd.datasets._loaders import load_image_folder, load_real_and_fake_faces
from sklearn_dfd.datasets._spliced import make_spliced_photos

__all__ = ["load_image_folder", "load_real_and_fake_faces", "make_spliced_photos"]
