"""Tests of _core.images.sources: every kind of image, where it is, and what it is called."""

import base64
import errno
import io
import os
import pickle
import re
import socket
import sys
import threading
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from image_files import RGB, encode, picture
from PIL import Image
from sklearn.utils import Bunch

from sklearn_dfd import MobileNetV2Features
from sklearn_dfd._core.images.decoding import check_header, content_digest, load_rgb, to_rgb
from sklearn_dfd._core.images.reading import read_source
from sklearn_dfd._core.images.sources import ImageView, as_image_list, describe, number_by_origin
from sklearn_dfd.exceptions import ImageError

# as_image_list -----------------------------------------------------------------------------------

PATHS = ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    "X",
    [
        PATHS,
        tuple(PATHS),
        np.array(PATHS),
        np.array(PATHS)[:, np.newaxis],
        np.array(PATHS, dtype=object),
        np.array(PATHS, dtype=object)[:, np.newaxis],
        pd.Series(PATHS, index=[7, 7, 1]),
        pd.Index(PATHS),
        pd.Series(PATHS, dtype="category"),
        pd.Series(PATHS, dtype="string"),
        pd.DataFrame({"path": PATHS}, index=[3, 4, 5]),
        pd.DataFrame({("two", "levels"): PATHS}),
        pl.Series("path", PATHS),
        pl.DataFrame({"path": PATHS}),
    ],
    ids=lambda X: f"{type(X).__module__.partition('.')[0]}-{type(X).__name__}",
)
def test_list_of_paths(X):
    images = as_image_list(X)
    assert len(images) == 3
    assert list(images) == PATHS


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy >= 2 only")
def test_list_of_numpy_strings_of_any_length():
    assert list(as_image_list(np.array(PATHS, dtype=np.dtypes.StringDType()))) == PATHS


def test_list_of_several_kinds_is_not_read():
    sources = ["missing.jpg", Path("x"), RGB, picture(), b"12", bytearray(b"12"), memoryview(b"1")]
    images = as_image_list(sources)
    assert len(images) == len(sources)
    assert all(a is b for a, b in zip(images, sources, strict=True))
    column = np.empty(len(sources), dtype=object)
    column[:] = sources
    for X in (column, pd.Series(column), pd.DataFrame({"image": column})):
        assert all(a is b for a, b in zip(as_image_list(X), sources, strict=True))


@pytest.mark.parametrize("shape", [(5, 9, 10), (5, 9, 10, 1), (5, 9, 10, 3), (5, 9, 10, 4)])
def test_array_of_images_is_a_view(shape, tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.uint8, shape)
    X[:] = np.arange(X.size).reshape(shape) % 251
    X.flush()
    for array in (X, np.load(tmp_path / "X.npy", mmap_mode="r")):
        images = as_image_list(array)
        assert len(images) == 5
        assert np.shares_memory(images[1:3], array)
        assert np.shares_memory(read_source(images[2]), array)
        expected = X[2].reshape(9, 10, -1)[..., :3]
        assert np.array_equal(to_rgb(images[2]), np.broadcast_to(expected, (9, 10, 3)))


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ("a.jpg", TypeError, r"single path, 'a\.jpg'.*\[path\]"),
        (Path("a.jpg"), TypeError, r"single path.*\[path\]"),
        (RGB, TypeError, r"single image \(PIL image \(RGB, 16x12\)\).*\[image\]"),
        (b"1234", TypeError, r"single image \(4 bytes\)"),
        (bytearray(b"1234"), TypeError, r"single image"),
        (memoryview(b"1234"), TypeError, r"single image"),
        (picture(), ValueError, r"\(12, 16, 3\).*one image of 3.*X\[np\.newaxis\]"),
        (picture(channels=4), ValueError, r"X\[np\.newaxis\]"),
        (picture(channels=1), ValueError, r"X\[np\.newaxis\]"),
        (picture().astype(float), ValueError, r"X\[np\.newaxis\]"),
        (
            picture(channels=None),
            ValueError,
            r"\(12, 16\).*features.*X\[np\.newaxis, \.\.\., np\.newaxis\]",
        ),
        (np.ones((10, 5)), ValueError, r"float64 of shape \(10, 5\).*features"),
        (np.arange(3), ValueError, "features"),
        (np.array(3), ValueError, "features"),
        (np.ones((2, 9, 9, 3)), TypeError, r"float64, uint8 .*np\.rint\(255 \* X\)"),
        (np.ones((2, 9, 9), np.float32), TypeError, "float32, uint8"),
        (np.ones((2, 9, 9), np.uint16), TypeError, "uint16, uint8"),
        (np.ones((2, 9, 9, 3), bool), TypeError, "bool, uint8"),
        (np.ones((2, 9, 9, 5), np.uint8), ValueError, "5 channels on its last axis where 1, 3 or"),
        (np.ones((2, 3, 9, 9), np.uint8), ValueError, r"channels last, np\.moveaxis\(X, 1,"),
        (np.ones((2, 2, 9, 9, 3), np.uint8), ValueError, r"\(2, 2, 9, 9, 3\)"),
        (np.array([PATHS, PATHS]), ValueError, r"shape \(2, 3\)"),
        (np.array([[1, "a"]], dtype=object), ValueError, r"object of shape \(1, 2\)"),
        (np.array("a.jpg"), ValueError, r"shape \(\)"),
        (np.array([b"a", b"b"]), TypeError, "byte strings"),
        (pd.DataFrame({"path": PATHS, "label": 0}), ValueError, "2 columns \\('path', 'label'\\)"),
        (pl.DataFrame({"path": PATHS, "é": 0}), ValueError, r"2 columns \('path', 'é'\)"),
        (pl.DataFrame({"path": PATHS}).lazy(), TypeError, "LazyFrame"),
        (scipy.sparse.eye(9).tocsr(), TypeError, "sparse"),
        (Bunch(data=PATHS), TypeError, r"Bunch.*its \.data"),
        ({"data": PATHS}, TypeError, r"dict.*\.data"),
        (None, TypeError, "type NoneType"),
        (3, TypeError, "type int"),
        (set(PATHS), TypeError, "type set"),
        (iter(PATHS), TypeError, r"type list_iterator: pass list\(X\)"),
    ],
)
def test_list_of_what_is_no_list_of_images(X, error, message):
    with pytest.raises(error, match=message):
        as_image_list(X)


@pytest.mark.parametrize(
    "X",
    [
        [],
        (),
        np.empty(0),
        np.empty((0, 1), dtype=object),
        np.empty((0, 9, 9, 3), np.uint8),
        pd.Series([], dtype=str),
        pd.DataFrame({"path": []}),
        pl.Series([], dtype=pl.String),
    ],
    ids=lambda X: f"{type(X).__module__.partition('.')[0]}-{type(X).__name__}",
)
def test_list_of_nothing_in_the_words_of_scikit_learn(X):
    message = r"Found array with 0 sample\(s\) \(shape=\(0,.*\)\) while a minimum of 1 is required"
    with pytest.raises(ValueError, match=message):
        as_image_list(X)


# describe and ImageError -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("faces/a.jpg", "'faces/a.jpg'"),
        (Path("faces/a.jpg"), repr(str(Path("faces/a.jpg")))),
        (np.str_("a.jpg"), "'a.jpg'"),
        ("a\nb\r\x1b.jpg", r"'a\nb\r\x1b.jpg'"),
        ("bad ü照.jpg", "'bad ü照.jpg'"),
        ("", "''"),
        ("\udcff.jpg", r"'\udcff.jpg'"),
        (RGB, "PIL image (RGB, 16x12)"),
        (picture(), "array (12, 16, 3)"),
        (b"1234", "4 bytes"),
        (bytearray(3), "3 bytes"),
        (memoryview(np.zeros((2, 4), np.int16)), "16 bytes"),
        (None, "NoneType"),
        (float("nan"), "float"),
    ],
)
def test_describe(source, name):
    assert describe(source) == name
    assert name.isprintable()


def test_describe_a_pil_image_by_its_file(tmp_path):
    path = tmp_path / "bad ü照\n.png"
    RGB.save(path)
    for name in (path, str(path), os.fsencode(path)):
        with Image.open(name) as image:
            assert describe(image) == repr(str(path))
    with open(path, "rb") as file, Image.open(file) as image:
        assert describe(image) == "PIL image (RGB, 16x12)"
    for nothing in ("", None, 3):
        image = RGB.copy()
        image.filename = nothing
        assert describe(image) == "PIL image (RGB, 16x12)"


def test_describe_an_undecodable_file_name():
    assert describe(os.fsdecode(b"\xff\xfe.jpg")) == r"'\udcff\udcfe.jpg'"


def test_image_error_names_rows_names_and_reasons():
    error = ImageError([(3, "'a.jpg'", "the file is empty"), (17, "9 bytes", "it is bad")], 500)
    assert isinstance(error, OSError)
    assert isinstance(error, ValueError)
    assert str(error) == (
        "2 of 500 images cannot be used: row 3 ('a.jpg'): the file is empty; row 17 (9 bytes): it "
        "is bad. Repair them, or leave them out."
    )
    assert error.failures == [(3, "'a.jpg'", "the file is empty"), (17, "9 bytes", "it is bad")]
    assert error.n_images == 500


@pytest.mark.parametrize(
    ("n", "end"), [(10, "row 9 (9): r."), (100, "row 9 (9): r; ... and 90 more.")]
)
def test_image_error_names_the_first_ten(n, end):
    text = str(ImageError([(i, str(i), "r") for i in range(n)], n, hint=""))
    assert text.startswith(f"{n} of {n} images cannot be used: row 0 (0): r; row 1 ")
    assert text.endswith(end)


def test_image_error_names_as_many_as_asked():
    failures = [(i, str(i), "r") for i in range(30)]
    everything = str(ImageError(failures, 30, hint="", n_shown=None))
    assert everything.endswith("row 28 (28): r; row 29 (29): r.")
    assert everything.count("row ") == 30
    two = ImageError(failures, 30, hint="Go.", n_shown=2)
    assert str(two).endswith("row 1 (1): r; ... and 28 more. Go.")
    for error in (two, ImageError(failures, 30, n_shown=None)):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_image_error_is_readable_and_on_one_line():
    failures = [(0, "a\nb", "café"), (1, "\udcff", "\x1b[2J"), (2, describe("bad ü照.jpg"), "图")]
    text = str(ImageError(failures, 3, hint="hü\t!"))
    assert text == (
        r"3 of 3 images cannot be used: row 0 (a\nb): café; row 1 (\udcff): \x1b[2J; "
        r"row 2 ('bad ü照.jpg'): 图. hü\t!"
    )
    assert text.isprintable()
    text.encode("utf-8")


@pytest.mark.parametrize("hint", [{}, {"hint": ""}, {"hint": "Look at the folder."}])
def test_image_error_pickles(hint):
    error = ImageError([(3, "'a.jpg'", "the file is empty")], 5, **hint)
    copy = pickle.loads(pickle.dumps(error))  # as worker processes send it back
    assert type(copy) is ImageError
    assert (copy.failures, copy.n_images, copy.hint) == (error.failures, 5, error.hint)
    assert str(copy) == str(error)
    assert str(copy).endswith(hint.get("hint") or ("out." if not hint else "empty."))


# read_source -------------------------------------------------------------------------------------


def test_read_paths_and_links(tmp_path):
    name = "M\xfcller 1\n.jpg"
    (tmp_path / name).write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / name)
    for path in (
        tmp_path / name,
        str(tmp_path / name),
        np.str_(tmp_path / name),
        tmp_path / "link",
    ):
        assert read_source(path) == b"content"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_read_an_undecodable_file_name(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    Path(path).write_bytes(b"content")
    assert read_source(path) == b"content"


@pytest.mark.parametrize("source", [b"abc", bytearray(b"abc"), memoryview(b"xaxbxc")[1::2]])
def test_read_bytes(source):
    raw = read_source(source)
    assert type(raw) is bytes
    assert raw == b"abc"


@pytest.mark.parametrize("source", [RGB, picture(), picture(channels=None), picture(channels=1)])
def test_read_images_in_memory_as_they_are(source):
    assert read_source(source) is source


@pytest.mark.parametrize(
    ("source", "error", "reason"),
    [
        ("missing.jpg", FileNotFoundError, "the file does not exist"),
        ("", FileNotFoundError, "the file does not exist"),
        (".", IsADirectoryError, "it is a folder, not a file: pass the images in it"),
        ("loop", OSError, f"the file cannot be read ({os.strerror(errno.ELOOP)})"),
        ("hollow/below", OSError, f"the file cannot be read ({os.strerror(errno.ENOTDIR)})"),
        ("x" * 5000, OSError, f"the file cannot be read ({os.strerror(errno.ENAMETOOLONG)})"),
        ("hollow", ValueError, "the file is empty"),
        ("a\0b", ValueError, "no file can have this name (ValueError: embedded null byte)"),
        (b"", ValueError, "there are no bytes in it"),
        (np.ones((9, 9, 5), np.uint8), ValueError, "5 channels"),
        (np.ones((3, 9, 9), np.uint8), ValueError, "channels last, np.moveaxis(image, 0, -1)"),
        (np.ones(9, np.uint8), ValueError, "it has shape (9,); an image is a path"),
        (np.ones((1, 9, 9, 3), np.uint8), ValueError, "it has shape (1, 9, 9, 3); an image is"),
        (np.ones((9, 9)), TypeError, "it is an array of float64, uint8 from 0 to 255"),
        (None, TypeError, "it is of type NoneType; an image is a path, a PIL image, a uint8"),
        (7, TypeError, "it is of type int; an image is"),
        (float("nan"), TypeError, "it is of type float; an image is"),
        (["a.jpg"], TypeError, "it is of type list; an image is"),
    ],
)
def test_read_what_is_no_image(source, error, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hollow").touch()
    Path("loop").symlink_to("loop")
    with pytest.raises(error) as caught:
        read_source(source)
    assert reason in str(caught.value)
    assert not isinstance(source, str) or len(source) < 4 or source not in str(caught.value)


def test_read_a_name_the_system_cannot_encode():
    if sys.getfilesystemencoding() != "utf-8":
        pytest.skip("the file system takes any character")
    with pytest.raises(ValueError, match="no file can have this name"):
        read_source("\ud800.jpg")


def test_read_without_permission(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"content")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything: let the system's call refuse

        def refuse(path, flags):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError) as caught:
        read_source(path)
    assert str(caught.value) == "there is no permission to read the file"


def in_time(call, seconds=10):
    """Run in a thread of its own: a call that hangs fails the test and does not stop the run."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return outcome[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("swapped_after_the_first_look", [False, True])
def test_read_never_waits_for_a_pipe(swapped_after_the_first_look, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    if swapped_after_the_first_look:
        (tmp_path / "file").write_bytes(b"content")
        status = os.stat(tmp_path / "file")
        monkeypatch.setattr(os, "stat", lambda path: status)
    error = in_time(lambda: read_source(tmp_path / "pipe.jpg"))
    assert type(error) is OSError
    assert str(error) == "the file cannot be read (it is a pipe, a socket or a device)"


@pytest.mark.skipif(os.name != "posix", reason="no devices with a path here")
def test_read_never_opens_devices_and_sockets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # socket names are limited to a hundred characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.jpg")
        for path in ("s.jpg", "/dev/zero"):
            error = in_time(lambda path=path: read_source(path))
            assert str(error) == "the file cannot be read (it is a pipe, a socket or a device)"


# views -------------------------------------------------------------------------------------------


class Half(ImageView):
    """The left half of an image, in grey."""

    signature = "left half 1"

    def __init__(self, source):
        self.source = source

    def render(self, image, random_state):
        half = image.crop((0, 0, image.width // 2, image.height)).convert("L")
        half.info["comment"] = "half of it"
        return half


def test_view_is_an_image_like_any_other(tmp_path):
    RGB.save(tmp_path / "a.png")
    X = [Half(tmp_path / "a.png"), Half(RGB), Half(picture()), Half(encode(RGB, "PNG"))]
    column = np.empty(len(X), dtype=object)
    column[:] = X
    assert all(a is b for a, b in zip(as_image_list(column), X, strict=True))
    expected = RGB.crop((0, 0, 8, 12)).convert("L").convert("RGB")
    for view in X:
        raw = read_source(view)
        check_header(raw)
        assert np.array_equal(to_rgb(raw), expected)
        assert to_rgb(raw).info == {}
        assert load_rgb(raw, 5).shape == (5, 5, 3)
    assert to_rgb(read_source(Half(Half(RGB)))).size == (4, 12)


def test_view_has_a_digest_of_its_own():
    class OtherHalf(Half):
        signature = "left half 2"

    sources = [RGB, RGB.rotate(180), encode(RGB, "PNG")]
    images = [*sources, *map(Half, sources), *map(OtherHalf, sources), Half(Half(RGB))]
    digests = [content_digest(read_source(image)) for image in images]
    assert len(set(digests)) == len(images)
    assert content_digest(read_source(Half(picture()))) == digests[3]


def test_randomness_of_a_view_comes_from_its_content_and_signature():
    class Noise(ImageView):
        def __init__(self, source, signature):
            self.source, self.seed = source, signature

        @property
        def signature(self):
            return self.seed

        def render(self, image, random_state):
            return Image.fromarray(random_state.randint(0, 256, (4, 4, 3)).astype(np.uint8))

    views = [Noise(RGB, "a"), Noise(RGB, "b"), Noise(RGB.rotate(180), "a"), Noise(RGB, "a")]
    pixels = [to_rgb(read_source(view)).tobytes() for view in views]
    assert len(set(pixels)) == 3
    assert pixels[3] == pixels[0]


def test_view_without_its_parts_cannot_be_made():
    class Nothing(ImageView):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()


def test_view_is_named_after_its_source():
    assert describe(Half("faces/a.jpg")) == "view of 'faces/a.jpg'"
    assert describe(Half(Half(picture()))) == "view of view of array (12, 16, 3)"
    with pytest.raises(TypeError, match=r"single image \(view of 'a\.jpg'\)"):
        as_image_list(Half("a.jpg"))


@pytest.mark.parametrize(
    ("source", "error"), [("missing.jpg", FileNotFoundError), (b"", ValueError), (7, TypeError)]
)
def test_view_of_what_cannot_be_read(source, error):
    with pytest.raises(error) as plain:
        read_source(source)
    with pytest.raises(error) as caught:
        read_source(Half(Half(source)))
    assert str(caught.value) == str(plain.value)


def test_header_of_a_view_is_that_of_its_source():
    with pytest.raises(ValueError, match="not in an image format"):
        check_header(read_source(Half(Half(b"1234"))))


def test_images_are_numbered_by_origin():
    array, other = picture(), picture()
    images = ["a.jpg", Path("a.jpg"), Half(Half("a.jpg")), array, other, Half(array)]
    images += [bytes(bytearray(b"12")) for _ in range(2)]  # equal, and two objects
    assert number_by_origin(images).tolist() == [0, 0, 0, 1, 2, 1, 3, 3]
    assert number_by_origin(np.zeros((3, 9, 9), np.uint8)).tolist() == [0, 1, 2]


# one image or several ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4])
def test_channels_first_or_grey_images_cannot_be_told_apart(n):
    X = np.random.default_rng(0).integers(0, 256, (n, 9, 10), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"may be one image with its . channels first") as caught:
        as_image_list(X)
    one, several = re.findall(r"pass (.*?) for one image, (.*?) for grey", str(caught.value))[0]
    for code, expected in ((one, [np.moveaxis(X, 0, -1)]), (several, list(X))):
        images = as_image_list(eval(code, {"np": np, "X": X}))
        assert len(images) == len(expected)
        for image, known in zip(images, expected, strict=True):
            assert np.array_equal(to_rgb(image), to_rgb(np.ascontiguousarray(known)))


@pytest.mark.parametrize("n", [1, 3, 4])
def test_channels_last_or_grey_images_cannot_be_told_apart(n):
    X = np.random.default_rng(0).integers(0, 256, (9, 10, n), dtype=np.uint8)
    with pytest.raises(ValueError, match="may be one image of") as caught:
        as_image_list(X)
    one, several = re.findall(r"pass (.*?) for one image, (.*?) for grey", str(caught.value))[0]
    assert len(as_image_list(eval(one, {"np": np, "X": X}))) == 1
    assert len(as_image_list(eval(several, {"np": np, "X": X}))) == 9


def test_one_grey_image_with_its_channel_first_is_the_same_either_way():
    X = picture(channels=None)
    (image,) = as_image_list(X[np.newaxis])
    assert np.array_equal(to_rgb(image), to_rgb(X))


def test_slices_of_grey_images_are_still_images():
    """As in chunks of many images, whatever their number."""
    images = as_image_list(np.zeros((9, 12, 16), np.uint8))
    for n in range(1, 6):
        assert len(as_image_list(images[:n])) == n


def test_the_recipe_for_one_grey_image():
    X = picture(channels=None)
    (image,) = as_image_list(X[np.newaxis, ..., np.newaxis])
    assert np.array_equal(to_rgb(image), to_rgb(X))


# files that are open, in archives, elsewhere -----------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        file.writestr("real/a.png", encode(RGB, "PNG"))
        file.writestr("real/empty.png", b"")
    return zipfile.Path(tmp_path / "photos.zip")


def test_paths_in_archives(archive):
    image = archive / "real" / "a.png"
    assert as_image_list([image]) == [image]
    assert np.array_equal(to_rgb(read_source(image)), RGB)
    assert describe(image).endswith("photos.zip/real/a.png'")
    assert number_by_origin([image, archive / "real" / "a.png"]).tolist() == [0, 0]
    with pytest.raises(TypeError, match=r"single file .*pass a list, \[file\]"):
        as_image_list(image)
    with pytest.raises(IsADirectoryError, match="folder in an archive"):
        read_source(archive / "real")
    with pytest.raises(FileNotFoundError, match="does not exist in the archive"):
        read_source(archive / "real" / "b.png")
    with pytest.raises(ValueError, match="empty"):
        read_source(archive / "real" / "empty.png")


def test_archives_in_memory(archive):
    content = io.BytesIO(Path(str(archive.root.filename)).read_bytes())
    root = zipfile.Path(zipfile.ZipFile(content))
    image = root / "real" / "a.png"
    assert describe(image) == "'real/a.png'"
    same = number_by_origin([image, root / "real" / "a.png", root / "real" / "empty.png"])
    assert same.tolist() == [0, 0, 1]
    table = MobileNetV2Features(weights=None, image_size=32, on_error="nan")
    with pytest.warns(UserWarning, match=r"row 1 \('real/empty\.png'\)"):
        table.fit_transform([image, root / "real" / "empty.png"])


def test_open_files_are_read_whole_and_left_where_they_were(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(RGB, "PNG"))
    with open(tmp_path / "a.png", "rb") as file:
        file.read(7)
        for source in (file, io.BytesIO(encode(RGB, "PNG"))):
            before = source.tell()
            for _ in range(2):
                assert np.array_equal(to_rgb(read_source(source)), RGB)
                assert source.tell() == before
        assert describe(file) == repr(str(tmp_path / "a.png"))
        assert number_by_origin([file, source, file]).tolist() == [0, 1, 0]
        with pytest.raises(TypeError, match=r"single file .*\[file\]"):
            as_image_list(file)
    with pytest.raises(ValueError, match="file object is closed"):
        read_source(file)
    with open(tmp_path / "a.png", encoding="latin-1") as text:
        with pytest.raises(TypeError, match='opened as text: open it with the mode "rb"'):
            read_source(text)
    with pytest.raises(TypeError, match="opened as text"):
        read_source(io.StringIO("text"))
    with pytest.raises(ValueError, match="empty"):
        read_source(io.BytesIO())


def test_files_that_can_be_read_only_once():
    end, other = os.pipe()
    with os.fdopen(end, "rb") as file:
        os.close(other)
        with pytest.raises(ValueError, match=r"more than once .*bytes that its read\(\) returns"):
            read_source(file)


def test_one_open_file_in_many_threads():
    file = io.BytesIO(encode(RGB.resize((400, 300)), "PNG"))
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read_source, [file] * 200))) == 1


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"content")
    for path in ("~/a.jpg", Path("~/a.jpg"), np.str_("~/a.jpg")):
        assert read_source(path) == b"content"
    with pytest.raises(TypeError, match=r"path of a folder.*load_image_folder"):
        as_image_list("~")


def test_folders_name_the_loader(tmp_path):
    for X in (str(tmp_path), tmp_path):
        with pytest.raises(TypeError, match=r"load_image_folder\(path\)\.data"):
            as_image_list(X)
        with pytest.raises(IsADirectoryError, match=r"load_image_folder\(path\)\.data"):
            read_source(X)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("https://example.org/a.jpg", r"urllib\.request\.urlopen\(url\)\.read\(\)"),
        ("file:///a.jpg", "urlopen"),
        ("data:image/png;base64," + "A" * 5000, "urlopen"),
        ("s3://bucket/a.jpg", "path of the downloaded file"),
        (Path("https://example.org/a.jpg"), "downloaded"),
    ],
)
def test_urls_are_not_downloaded(url, advice):
    with pytest.raises(FileNotFoundError, match=f"a URL, and nothing is downloaded.*{advice}"):
        read_source(url)


def test_bytes_of_a_url_as_the_message_says():
    data = base64.b64encode(encode(RGB, "PNG")).decode()
    raw = urllib.request.urlopen(f"data:image/png;base64,{data}").read()
    assert np.array_equal(to_rgb(read_source(raw)), RGB)


def test_a_file_whose_name_looks_like_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data:a.jpg").write_bytes(b"content")
    assert read_source("data:a.jpg") == b"content"


def test_tensors_name_the_call_that_makes_them_arrays():
    torch = pytest.importorskip("torch")
    X = torch.zeros((2, 9, 9, 3), dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"torch\.Tensor: pass X\.detach\(\)\.cpu\(\)\.numpy\(\)"):
        as_image_list(X)
    with pytest.raises(TypeError, match=r"pass image\.detach\(\)\.cpu\(\)\.numpy\(\)"):
        read_source(X[0])
    assert len(as_image_list(X.detach().cpu().numpy())) == 2


def test_arrays_are_rgb():
    red = np.zeros((9, 9, 3), np.uint8)
    red[..., 0] = 255
    assert to_rgb(red).getpixel((0, 0)) == (255, 0, 0)
    assert to_rgb(red[..., ::-1][..., ::-1]).getpixel((0, 0)) == (255, 0, 0)
