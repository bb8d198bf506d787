"""Coverage-guided mutations of image files, of our code and of Pillow's in Python.

    python soak/atheris_images.py [CORPUS] -max_total_time=600

``make fuzz-guided`` installs atheris first. A file that makes a defect is left as ``crash-...``,
and a slow one as ``timeout-...``.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sklearn_dfd._core.images.decoding", "PIL"]):
    import images


def main():
    with tempfile.TemporaryDirectory() as corpus:
        for name, raw in images.seeds().items():
            Path(corpus, name.replace(" ", "-")).write_bytes(raw)
        arguments = [*sys.argv, corpus, "-timeout=60", "-rss_limit_mb=4096", "-max_len=20000"]
        atheris.Setup(arguments, images.outcome)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
