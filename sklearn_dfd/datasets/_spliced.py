"""A toy set: tiles of sample photographs, half of them with a piece pasted in."""

from collections.abc import Sequence
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.utils import Bunch, check_random_state

from sklearn_dfd._core.sklearn_private import Interval, validate_params

_TILE_HEIGHT, _TILE_WIDTH = 142, 128

_Pixels: TypeAlias = npt.NDArray[np.uint8]
_Difficulty: TypeAlias = Literal["easy", "mid", "hard"]


class _Photograph(NamedTuple):
    """A sample photograph that comes with an installed package, and the tiles it is cut into."""

    package: str
    file: str  # within the package
    rights: str
    tiles: dict[str, tuple[int, int, int]]  # left, top, width; none shares a pixel with another


# Only files that the wheels contain, so that nothing is downloaded; each with its licence. Places
# that show nothing but sky, water or blurred leaves are left out: an edit there is either invisible
# or the only thing to be seen.
_PHOTOGRAPHS = {
    "china": _Photograph(
        "sklearn",
        "datasets/images/china.jpg",
        "scikit-learn; CC BY 2.0, danielbuechele on Flickr",
        {
            "roof": (110, 0, 128),
            "left wing": (0, 142, 128),
            "storeys": (128, 142, 128),
            "right wing": (256, 142, 128),
            "tree": (512, 142, 128),
            "bushes": (0, 284, 128),
            "lower storey": (128, 284, 128),
            "terrace": (256, 284, 128),
            "shore": (384, 284, 128),
            "thicket": (512, 284, 128),
        },
    ),
    "flower": _Photograph(
        "sklearn",
        "datasets/images/flower.jpg",
        "scikit-learn; CC BY 2.0, vultilion on Flickr",
        {
            "upper left petals": (180, 80, 128),
            "upper right petals": (310, 80, 128),
            "lower left petals": (180, 222, 128),
            "lower right petals": (310, 222, 128),
        },
    ),
    "astronaut": _Photograph(
        "skimage",
        "data/astronaut.png",
        "scikit-image; public domain, NASA",
        {
            "face": (140, 8, 180),
            "shuttle": (340, 20, 160),
            "flag": (0, 60, 128),
            "sleeve": (0, 215, 128),
            "badges": (130, 215, 134),
            "helmet": (266, 320, 170),
            "glove": (0, 370, 128),
        },
    ),
    "grace_hopper": _Photograph(
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "Matplotlib; public domain, United States Navy",
        {
            "face": (150, 90, 220),
            "stars": (5, 30, 140),
            "stripes": (5, 200, 140),
            "collar": (172, 340, 148),
            "shoulder": (380, 290, 130),
            "name tag": (20, 440, 140),
            "ribbons": (330, 440, 140),
        },
    ),
    "coffee": _Photograph(
        "skimage",
        "data/coffee.png",
        "scikit-image; CC0, Rachel Michetti and Pikolo Espresso Bar",
        {
            "cup": (165, 5, 235),
            "table": (10, 100, 140),
            "saucer": (20, 256, 128),
            "spoon": (410, 20, 150),
            "planks": (450, 200, 140),
        },
    ),
    "rocket": _Photograph(
        "skimage",
        "data/rocket.jpg",
        "scikit-image; public domain, SpaceX",
        {
            "rocket": (215, 140, 230),
            "lamps": (40, 250, 150),
            "floodlights": (470, 250, 150),
            "tower": (0, 20, 128),
        },
    ),
    "cat": _Photograph(
        "skimage",
        "data/chelsea.png",
        "scikit-image; CC0, Stéfan van der Walt",
        {"face": (100, 0, 270)},
    ),
}


class _Edit(NamedTuple):
    """How an edit of one difficulty is made; lengths as shares of the side of the image."""

    radius: tuple[float, float]
    edge: float  # width of the soft edge, as a share of the radius
    scale: tuple[float, float]
    matched: tuple[bool, bool]  # whether mean and spread of the colours are those of the place


_EDITS: dict[_Difficulty, _Edit] = {
    "easy": _Edit(radius=(0.28, 0.35), edge=0.1, scale=(1.4, 1.8), matched=(False, False)),
    "mid": _Edit(radius=(0.25, 0.32), edge=0.25, scale=(1.2, 1.5), matched=(True, False)),
    "hard": _Edit(radius=(0.2, 0.28), edge=0.5, scale=(1.05, 1.25), matched=(True, True)),
}

_SPLICED_DESCR = """\
A toy: tiles of {n_photographs} sample photographs. {n_genuine} genuine and {n_spliced} spliced
images in {n_groups} groups.

Each photograph is cut into tiles that share no pixel; two tiles, of two photographs where possible,
are a group. A genuine image is a crop of a tile. A spliced image is such a crop with an ellipse
pasted in, enlarged, rotated and with a soft edge: from elsewhere in the same tile ("copy-move"), or
from the other tile of the group ("splice"). "easy" edits are large and keep their colours, those of
"mid" take the mean colour of the place that they cover, and "hard" ones are small and take the
spread of its colours too. No noise is added. Both classes show the same places, so that only the
edit tells them apart. About half of the images of either class are mirrored.

This set is for trying the package, and is not a benchmark: it has few photographs, and no person
made its edits. A score on it says nothing about how well deepfakes are detected.

The photographs, which come with installed packages:
{rights}
"""


def _path_of(photograph: _Photograph) -> Path | None:
    """Find the file in the installed package, without importing it."""
    spec = find_spec(photograph.package)
    places = (spec and spec.submodule_search_locations) or []
    files = (Path(place) / photograph.file for place in places)
    return next((file for file in files if file.is_file()), None)


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _tiles(names: Sequence[str] | None) -> tuple[list[str], _Pixels]:
    """Cut the photographs: the names of the places, and their tiles, an even number of them."""
    if names is None:
        chosen = [name for name, photo in _PHOTOGRAPHS.items() if _path_of(photo)]
    else:
        chosen = list(dict.fromkeys(names))
        unknown = [name for name in chosen if name not in _PHOTOGRAPHS]
        if unknown:
            raise ValueError(
                f"photographs has unknown names: {', '.join(map(repr, unknown))}. The known ones "
                f"are {', '.join(map(repr, _PHOTOGRAPHS))}."
            )
        absent = {name: _PHOTOGRAPHS[name].package for name in chosen}
        absent = {name: at for name, at in absent.items() if not _path_of(_PHOTOGRAPHS[name])}
        if absent:
            listed = ", ".join(f"{name!r} comes with {at}" for name, at in absent.items())
            raise ValueError(
                f"Some photographs are not on this machine: {listed}. Install "
                '"sklearn-dfd[demo]", which brings them all, or leave them out of photographs.'
            )
    places, tiles = [], []
    for name in chosen:
        path = _path_of(_PHOTOGRAPHS[name])
        assert path is not None  # noqa: S101
        image = _read(path)
        for place, (left, top, width) in _PHOTOGRAPHS[name].tiles.items():
            height = round(width * _TILE_HEIGHT / _TILE_WIDTH)
            box = (left, top, left + width, top + height)
            # Cut first: resized as a whole, the photograph would mix pixels of neighbours.
            part = image.crop(box).resize((_TILE_WIDTH, _TILE_HEIGHT), Image.Resampling.LANCZOS)
            places.append(f"{name}/{place}")
            tiles.append(np.asarray(part))
    n = len(tiles) // 2 * 2
    if not n:
        raise ValueError(
            f"photographs={list(chosen)} gives {len(tiles)} tile(s), and two at least are needed: "
            "name another photograph too."
        )
    return places[:n], np.stack(tiles[:n])


def _paste(
    crop: _Pixels,
    corner: tuple[int, int] | None,
    donor: _Pixels,
    difficulty: _Difficulty,
    rng: np.random.RandomState,
) -> tuple[_Pixels, npt.NDArray[np.bool_]]:
    """Paste a piece of the donor into a crop, whose corner in the donor is given if it lies there.

    Returns the image, and where the piece is.
    """
    edit, size = _EDITS[difficulty], len(crop)
    half_y, half_x = rng.uniform(*edit.radius, size=2) * size
    y, x = rng.uniform(0.37, 0.63, size=2) * size
    rows, columns = np.mgrid[:size, :size] + 0.5
    radius = np.hypot((rows - y) / half_y, (columns - x) / half_x)
    alpha = np.clip((1 - radius) / edit.edge, 0, 1)[..., np.newaxis]

    places = rng.uniform(0.25, 0.75, size=(8, 2)) * donor.shape[:2]
    from_y, from_x = places[0]
    if corner is not None:  # of several places to copy from, the one farthest from the piece
        from_y, from_x = places[np.argmax(np.hypot(*(places - corner - (y, x)).T))]
    # A piece that reaches over the edge of its tile is mirrored there: the neighbour is never seen.
    margin = size // 2
    padded = np.pad(donor, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    angle, scale = rng.uniform(-0.4, 0.4), rng.uniform(*edit.scale)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    from_y, from_x = margin + from_y - sin * x - cos * y, margin + from_x - cos * x + sin * y
    transformed = Image.fromarray(padded).transform(
        (size, size),
        Image.Transform.AFFINE,
        (cos, -sin, from_x, sin, cos, from_y),
        Image.Resampling.BICUBIC,
    )
    piece, under = np.asarray(transformed, dtype=np.float64), crop.astype(np.float64)
    weight = alpha / alpha.sum()
    mean, mean_under = ((weight * a).sum(axis=(0, 1)) for a in (piece, under))
    if edit.matched[1]:
        spread, spread_under = (
            np.sqrt((weight * (a - m) ** 2).sum(axis=(0, 1)))
            for a, m in ((piece, mean), (under, mean_under))
        )
        # Within bounds: from a plain place, a strong contrast would make stripes of its JPEG noise.
        piece = mean + (piece - mean) * np.clip(spread_under / np.maximum(spread, 1), 0.5, 2)
    if edit.matched[0]:
        piece = piece - mean + mean_under
    pasted = under * (1 - alpha) + np.clip(piece, 0, 255) * alpha
    return np.rint(pasted).astype(np.uint8), alpha[..., 0] > 0


@validate_params(
    {
        "n_samples": [Interval(Integral, 2, None, closed="left")],
        "image_size": [Interval(Integral, 32, _TILE_WIDTH, closed="both")],
        "photographs": [list, tuple, None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_spliced_photos(
    n_samples: int = 400,
    *,
    image_size: int = 96,
    photographs: Sequence[str] | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Make a toy set of images, half of them with a piece pasted in.

    The images are parts of tiles of a few sample photographs that come with installed packages: two
    with scikit-learn, one with Matplotlib, four with scikit-image. They are for trying the package,
    and are not a benchmark.

    Parameters
    ----------
    n_samples : int, default=400
        Number of images, at least 2. With all photographs and at least 38 images, every group holds
        both classes.
    image_size : int, default=96
        Height and width of the images in pixels, from 32 to 128.
    photographs : list of str, default=None
        Names of the photographs to use, for the same images on every machine: "china" and "flower"
        (with scikit-learn), "grace_hopper" (Matplotlib), "astronaut", "coffee", "rocket" and "cat"
        (scikit-image). None uses all that are installed; ``pip install "sklearn-dfd[demo]"`` brings
        them all. Nothing is downloaded.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same images in every call with the same photographs.

    Returns
    -------
    photos : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_samples, image_size, image_size, 3), dtype uint8
            The images, RGB.
        target : ndarray of shape (n_samples,), dtype int64
            0 for genuine, 1 for spliced; of an odd number of images, one more is genuine.
        target_names : ndarray of shape (2,), dtype object
            "genuine" and "spliced".
        groups : ndarray of shape (n_samples,), dtype int64
            Number of the pair of tiles that the image is made from. No place of a photograph is in
            two groups.
        masks : ndarray of shape (n_samples, image_size, image_size), dtype bool
            Where the pasted piece is, its soft edge included. All False for genuine images.
        places : ndarray of shape (n_samples,), dtype object
            Photograph and place that the image shows, such as "astronaut/face".
        kinds : ndarray of shape (n_samples,), dtype object
            "copy-move" for a piece of the same place, "splice" for one of another place, "" for
            genuine images.
        difficulty : ndarray of shape (n_samples,), dtype object
            "easy", "mid" or "hard": how well the piece is fitted in; "" for genuine images.
        DESCR : str
            Description of how the images are made, and the licence of each photograph.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or `photographs` has a name that is unknown or whose
        package is not installed.

    Examples
    --------
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> photos = make_spliced_photos(60, photographs=["china", "flower"], random_state=0)
    >>> photos.data.shape, photos.target.sum(), len(set(photos.groups))
    ((60, 96, 96, 3), np.int64(30), 7)
    """
    rng = check_random_state(random_state)
    places, tiles = _tiles(photographs)
    n_groups = len(tiles) // 2  # tile k and tile k + n_groups are a group
    # Genuine and spliced in turn, two of a tile together; each group once before any comes again,
    # each tile once before any comes again.
    first = rng.permutation(n_groups) + n_groups * rng.randint(2, size=n_groups)
    turns = np.concatenate([first, (first + n_groups) % len(tiles)])
    chosen = np.resize(turns, (n_samples + 1) // 2).repeat(2)[:n_samples]
    edits = [(kind, level) for level in _EDITS for kind in ("copy-move", "splice")]
    edit_of = rng.permutation(np.resize(np.arange(len(edits)), n_samples // 2))
    order = rng.permutation(n_samples)
    target, chosen = order % 2, chosen[order]

    data = np.empty((n_samples, image_size, image_size, 3), dtype=np.uint8)
    masks = np.zeros((n_samples, image_size, image_size), dtype=bool)
    kinds, difficulty = np.full((2, n_samples), "", dtype=object)
    for row, tile in enumerate(chosen):
        top = rng.randint(_TILE_HEIGHT - image_size + 1)
        left = rng.randint(_TILE_WIDTH - image_size + 1)
        image, mask = tiles[tile, top : top + image_size, left : left + image_size], masks[row]
        if target[row]:
            kinds[row], level = edits[edit_of[order[row] // 2]]
            difficulty[row] = level
            if kinds[row] == "splice":
                image, mask = _paste(image, None, tiles[(tile + n_groups) % len(tiles)], level, rng)
            else:
                image, mask = _paste(image, (top, left), tiles[tile], level, rng)
        mirror = slice(None, None, rng.choice([-1, 1]))
        data[row], masks[row] = image[:, mirror], mask[:, mirror]
    groups = (chosen % n_groups).astype(np.int64)
    used = dict.fromkeys(place.partition("/")[0] for place in places)
    return Bunch(
        data=data,
        target=target.astype(np.int64),
        target_names=np.array(["genuine", "spliced"], dtype=object),
        groups=groups,
        masks=masks,
        places=np.array(places, dtype=object)[chosen],
        kinds=kinds,
        difficulty=difficulty,
        DESCR=_SPLICED_DESCR.format(
            n_photographs=len(used),
            n_genuine=n_samples - target.sum(),
            n_spliced=target.sum(),
            n_groups=len(np.unique(groups)),
            rights="\n".join(f"- {name} ({_PHOTOGRAPHS[name].rights})" for name in used),
        ),
    )
