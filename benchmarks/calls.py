"""Count the calls within the package that judging one photograph takes, and changes of file.

    python benchmarks/calls.py [--list]

Both tell how far a reader has to follow the code. Counted are the calls of the package's own
functions, comprehensions aside, in all threads, when a saved detector judges a file that it has
not seen; and how often such a call leads from one file of the package into another.
"""

import pickle
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

from PIL import Image

import sklearn_dfd
from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.feature_store import IN_PROCESS

PACKAGE = str(Path(sklearn_dfd.__file__).parent)


class Calls:
    """What the profiler of Python reports of the package."""

    def __init__(self) -> None:
        self.of: Counter[tuple[str, str]] = Counter()
        self.n_changes = 0
        self._lock = threading.Lock()
        self._file = threading.local()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Count one event."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_name in ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"):
            return
        with self._lock:
            self.of[code.co_filename.removeprefix(PACKAGE)[1:], code.co_name] += 1
            self.n_changes += code.co_filename != getattr(self._file, "last", code.co_filename)
        self._file.last = code.co_filename

    def __enter__(self) -> "Calls":
        threading.setprofile(self)
        sys.setprofile(self)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)


def count(preset: str | None) -> Calls:
    """Count what one prediction takes of a detector of one preset.

    Parameters
    ----------
    preset : str or None
        As `make_deepfake_pipeline` takes it.

    Returns
    -------
    calls : Calls
    """
    photos = make_spliced_photos(20, image_size=64, random_state=0)
    options = {"weights": None, "image_size": 64, "max_epochs": 1, "random_state": 0}
    detector = make_deepfake_pipeline(preset=preset, **options)
    if preset:
        detector.set_params(n_views=0)
    saved = pickle.dumps(detector.fit(photos.data, photos.target))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.png"
        Image.fromarray(photos.data[0]).save(path)
        IN_PROCESS.clear()
        detector = pickle.loads(saved)
        with Calls() as calls:
            detector.predict([path])
    return calls


def main() -> None:
    """Print the figures of both presets."""
    for preset in (None, "accurate"):
        calls = count(preset)
        print(f"preset={preset!r}: {calls.of.total()} calls, {calls.n_changes} changes of file")
        if "--list" in sys.argv:
            for (file, name), n_calls in calls.of.most_common():
                print(f"{n_calls:6}  {file}  {name}")


if __name__ == "__main__":
    main()
