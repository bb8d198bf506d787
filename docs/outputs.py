"""What the blocks of the user guide print and draw, put below them when the pages are built.

The blocks of a page run one after the other, as in a notebook: what they print, the value of a last
line that is an expression, and the figures that they draw are shown. Each page runs in a folder of
its own, with photographs made on the spot in `faces/real` and `faces/fake`, and films in `films`.
"""

import ast
import contextlib
import io
import os
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np

#: The pages whose blocks run. The others need weights, a cluster or photographs.
PAGES = ("data", "fitting", "saving")
#: What needs a network is not run.
BLOCK = re.compile(
    r"^```python\n(?!# (?:sends|fetches) )(.*?)^```\n", flags=re.DOTALL | re.MULTILINE
)
#: Figures are written here, outside of version control.
FOLDER = Path(__file__).parent / "api" / "generated" / "outputs"


def add_outputs(app, docname, source):
    """Run the blocks of a page, unless the gallery is not run either (`-D plot_gallery=0`)."""
    run = str(app.config.plot_gallery).lower() not in {"0", "false", "no"}
    if docname not in PAGES or not run:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("COLUMNS", "96")  # of progress bars
    with photographs():
        namespace = {"__name__": "__main__"}
        numbers = iter(range(1000))
        source[0] = BLOCK.sub(
            lambda match: match.group() + shown(match.group(1), namespace, docname, numbers),
            source[0],
        )


def make_film(path, pictures):
    """Write a film that shows each of a few pictures for a second."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=8)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for pixels in np.repeat(pictures, 8, axis=0):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        film.mux(stream.encode())


@contextlib.contextmanager
def photographs():
    """Change to a folder with a few photographs and films that a page may mention."""
    from PIL import Image

    from sklearn_dfd.datasets import make_spliced_photos

    before = os.getcwd()
    with tempfile.TemporaryDirectory() as directory:
        photos = make_spliced_photos(24, random_state=0)
        for i, pixels in enumerate(photos.data):
            folder = Path(directory, "faces", "fake" if photos.target[i] else "real")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        for i, name in enumerate(("real/000", "real/003", "fake/000_003")):
            make_film(Path(directory, "films", f"{name}.mp4"), photos.data[3 * i : 3 * i + 3])
        os.chdir(directory)
        try:
            yield
        finally:
            os.chdir(before)


def shown(code, namespace, docname, numbers):
    """Run a block and return the Markdown of what it printed and drew."""
    import matplotlib.pyplot as plt
    from sklearn.base import BaseEstimator

    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(tree, docname, "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), docname, "eval"), namespace)
            # that `fit` returns its estimator is not worth a line
            if value is not None and not isinstance(value, BaseEstimator):
                print(repr(value))
    text = ""
    if printed.getvalue().strip():
        text += f"\n```text\n{printed.getvalue().rstrip()}\n```\n"
    for number in plt.get_fignums():
        name = f"{docname}_{next(numbers)}.png"
        plt.figure(number).savefig(FOLDER / name, dpi=100, bbox_inches="tight")
        text += f"\n![What this block draws](api/generated/outputs/{name})\n"
    plt.close("all")
    return text
