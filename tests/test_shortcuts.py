"""Tests of check_shortcuts: what headers say, and what a rule makes of it."""

import io
import os
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from image_files import DISPLAY_P3, RGB, encode, photo, picture
from PIL import Image, ImageFile
from sklearn.metrics import roc_auc_score

from sklearn_dfd._core.shortcuts import headers, rule
from sklearn_dfd._core.shortcuts.headers import ATTRIBUTES, FILE_TIME, read_header
from sklearn_dfd._core.shortcuts.jpeg_header import MAX_SEGMENTS
from sklearn_dfd.augmentation import View, equalize_encoding
from sklearn_dfd.exceptions import ImageError, ShortcutWarning
from sklearn_dfd.model_selection import check_shortcuts

N = 40  # files of each class
LOAD = ImageFile.ImageFile.load


@pytest.fixture(autouse=True)
def _no_pixel_is_decoded(monkeypatch):
    """Files are read, but never decoded."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))


def textured(seed, width=64, height=48):
    """Make a picture whose files differ in length from others."""
    small = Image.fromarray(picture(6 + seed % 5, 8, seed=seed))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def files(format="JPEG", start=0, size=(64, 48), **options):
    return [encode(textured(start + i, *size), format, **options) for i in range(N)]


def exif_of(**tags):
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[{"make": 0x010F, "model": 0x0110, "software": 0x0131}[tag]] = value
    return exif


def report_of(real, fake, expect=True, **options):
    """Check files of two classes, and whether there is a warning."""
    X, y = real + fake, ["real"] * len(real) + ["fake"] * len(fake)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = check_shortcuts(X, y, **options)
    assert [w.category for w in caught] == ([ShortcutWarning] if expect else [])
    assert all(w.filename == __file__ for w in caught)
    return report


def row_of(report, attribute):
    (row,) = (row for row in report.attributes if row.attribute == attribute)
    return row


# what reveals the labels --------------------------------------------------------------------------

SHORTCUTS = {
    "format": (
        {"format": "PNG"},
        "format",
        "PNG: 100 % of fake, 0 % of real|JPEG: 100 % of real, 0 % of fake",
    ),
    "webp": ({"format": "WEBP"}, "format", "WEBP: 100 % of fake|JPEG: 100 % of real"),
    "tiff": ({"format": "TIFF"}, "format", "TIFF: 100 % of fake|JPEG: 100 % of real"),
    "bmp": ({"format": "BMP"}, "format", "BMP: 100 % of fake|JPEG: 100 % of real"),
    "quality": ({"quality": 90}, "quantisation tables", "quality 90|quality 75"),
    "subsampling": (
        {"subsampling": "4:4:4"},
        "chroma subsampling",
        "4:4:4: 100 % of fake|4:2:0: 100 % of real",
    ),
    "progressive": (
        {"progressive": True},
        "coding",
        "progressive: 100 % of fake|baseline: 100 % of real",
    ),
    "optimised": (
        {"optimize": True},
        "Huffman tables",
        "optimised: 100 % of fake|standard: 100 % of real",
    ),
    "software": (
        {"exif": exif_of(software="Editor 9.1")},
        "software",
        "Editor 9.1: 100 % of fake, 0 % of real",
    ),
    "camera": ({"exif": exif_of(make="Maker", model="M1")}, "camera", "Maker M1: 100 % of fake"),
    "exif": ({"exif": exif_of(make="M")}, "EXIF", "present: 100 % of fake, 0 % of real"),
    "profile": ({"icc_profile": DISPLAY_P3}, "ICC profile", f"{len(DISPLAY_P3)} bytes: 100 %"),
    "xmp": ({"xmp": b"<x:xmpmeta/>"}, "XMP", "present: 100 % of fake, 0 % of real"),
    "comment": ({"comment": b"made by"}, "segments", "COM|APP0 JFIF, DQT"),
    "size": ({"size": (80, 60)}, "size", "at most 64 pixels wide: 100 % of real, 0 % of fake"),
    "aspect": ({"size": (64, 36)}, "aspect ratio", "width at most 1.33 times the height: 100 %"),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_difference_between_files_is_found(name):
    options, attribute, example = SHORTCUTS[name]
    report = report_of(files(start=100), files(**options))
    row = row_of(report, attribute)
    assert row.varies and row.roc_auc == pytest.approx(1) and row.low > 0.9
    assert report.roc_auc > 0.95 and report.interval[0] > 0.8
    assert any(text in row.example for text in example.split("|")) and row.example in str(report)
    assert report.unreadable == [] and report.n_images == 2 * N


def test_formats_other_than_jpeg_have_metadata_too():
    for format in ("PNG", "WEBP", "TIFF"):
        exif = exif_of(software="Editor", make="Maker", model="M1")
        report = report_of(files(format, start=100), files(format, exif=exif))
        assert row_of(report, "software").roc_auc == 1, format
        assert "Editor" in row_of(report, "software").example


def test_a_quarter_of_the_fakes_is_enough():
    fakes = files(quality=87)[: N // 4] + files(quality=75)[N // 4 :]
    real = files(start=100, quality=75)
    report = report_of(real * 4, fakes * 4, groups=range(8 * N))
    row = row_of(report, "quantisation tables")
    assert row.roc_auc == pytest.approx(0.625, abs=0.03)
    assert "quality 87" in row.example and "25 % of fake, 0 % of real" in row.example


def test_files_that_are_all_alike():
    one = photo()
    report = report_of([one] * N, [one] * N, expect=False, groups=range(2 * N))
    assert report.roc_auc == 0.5 and report.interval == (0.5, 0.5)
    assert not any(row.varies for row in report.attributes)
    assert all((row.roc_auc, row.low, row.high) == (0.5, 0.5, 0.5) for row in report.attributes)
    assert "The same in all files: format (JPEG)" in str(report)
    assert "size (96 x 64)" in str(report)


def test_one_row_for_each_attribute():
    report = report_of(files(start=100), files(quality=90))
    assert [row.attribute for row in report.attributes] == [a.name for a in ATTRIBUTES]
    table = str(report)
    assert "ROC AUC" in table.splitlines()[1] and "95 % interval" in table
    assert str(pickle.loads(pickle.dumps(report))) == table


def test_the_same_report_in_every_call():
    X = files(start=100, quality=80)[:20] + files() + files(quality=80)[:20]
    y = np.arange(len(X)) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortcutWarning)
        one, two = (str(check_shortcuts(X, y, random_state=3)) for _ in range(2))
        other = str(check_shortcuts(X, y, random_state=4))
    assert one == two != other


@pytest.mark.parametrize("labels", [(0, 1), (-1, 1), (False, True), ("a", "b"), (3.0, 7.0)])
def test_labels_of_any_type(labels):
    X, y = files(start=100) + files(quality=90), np.repeat(labels, N)
    with pytest.warns(ShortcutWarning, match=r"ROC AUC of 1\.000 \(95 % interval"):
        report = check_shortcuts(X, y)
    names = [n if isinstance(n, str) else f"class {n}" for n in np.unique(y).tolist()]
    assert report.classes == names and f"100 % of {names[0]}" in str(report)


def test_file_time_counts_where_it_is_asked_for(tmp_path):
    paths = []
    for i in range(2 * N):
        paths.append(tmp_path / f"{i}.jpg")
        paths[-1].write_bytes(photo())
        os.utime(paths[-1], (10**9, 10**9 + i))
    assert report_of(paths[:N], paths[N:], expect=False).roc_auc == 0.5
    report = report_of(paths[:N], paths[N:], file_time=True)
    assert row_of(report, FILE_TIME.name).roc_auc > 0.9
    assert "until 2001-09-09" in row_of(report, FILE_TIME.name).example
    for path in paths:
        os.utime(path, (10**9, 10**9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortcutWarning)
        unknown = check_shortcuts(
            files(start=100) + files(start=200), np.arange(2 * N) // N, file_time=True
        )
    assert "file time (unknown)" in str(unknown)
    assert "file time (2001-09-09 01:46)" in str(
        report_of(paths[:N], paths[N:], expect=False, file_time=True)
    )


# what is an image with a header -------------------------------------------------------------------


def test_all_kinds_of_files(tmp_path, monkeypatch):
    """Paths, strings, bytes, file objects, members of archives, and PIL images of a path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(photo(quality=91, exif=exif_of(software="Editor")))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "a.jpg", "in/a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    with Image.open(tmp_path / "a.jpg") as opened, open(tmp_path / "a.jpg", "rb") as file:
        sources = [
            tmp_path / "a.jpg",
            str(tmp_path / "a.jpg"),
            "~/a.jpg",
            content,
            bytearray(content),
            memoryview(content),
            io.BytesIO(content),
            file,
            zipfile.Path(tmp_path / "z.zip", "in/a.jpg"),
            opened,
        ]
        found = [read_header(source) for source in sources]
    for header in found:
        header.pop("time")
        assert header == found[0]
    assert found[0]["software"] == "Editor" and found[0]["tables"].startswith("quality 91 (")


@pytest.mark.parametrize(
    "image",
    [picture(), RGB, View("a.jpg", seed=0), equalize_encoding(["a.jpg"])[0]],
    ids=["array", "PIL", "view", "equalised"],
)
def test_images_without_a_header_are_named(image):
    X, y = [*files(), image, *files(start=100), image], [0] * N + [0] + [1] * N + [1]
    message = rf"2 of {2 * N + 2} images cannot be used: row {N} \(.*\): it is .*; row {2 * N + 1}"
    with pytest.raises(ImageError, match=message) as error:
        check_shortcuts(X, y)
    assert "Pass the paths of their files, or the bytes" in str(error.value)
    assert [row for row, _, _ in error.value.failures] == [N, 2 * N + 1]


def test_an_array_of_images_has_no_headers():
    with pytest.raises(ImageError, match=r"6 of 6 images cannot be used.*no header"):
        check_shortcuts(np.zeros((6, 8, 8, 3), np.uint8), [0, 1] * 3)


def test_no_more_is_read_than_the_header(tmp_path):
    whole = tmp_path / "whole.jpg"
    whole.write_bytes(photo())
    long = tmp_path / "long.jpg"
    with open(long, "wb") as file:
        file.write(photo())
        file.truncate(2**29)  # a hole, which costs no disk
    tracemalloc.start()
    header = read_header(long)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header["density"] == 2**29 / (96 * 64) and peak < 2**21
    assert header["tables"] == read_header(whole)["tables"]


# files that cannot be read ------------------------------------------------------------------------


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def exif_bomb():
    """EXIF data of thousands of entries, each of which claims all of it, and loops."""
    entries = b"".join(
        struct.pack("<HHII", 0x0131 if i % 2 else 0x010F, 2, 60_000, 8) for i in range(5000)
    )
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 65535) + entries


WITH = photo()[:2]  # start of the image
REST = photo()[2:]
BROKEN = {
    "no bytes": (b"", "no bytes"),
    "nothing": (b"\0" * 99, "not in an image format"),
    "cut in a segment": (photo()[:30], "cut off"),
    "cut between segments": (photo()[:20], "cut off"),
    "no frame": (WITH + b"\xff\xda\0\2", "how large"),
    "no pixels": (photo().replace(struct.pack(">HH", 64, 96), b"\0\0\0\0", 1), "no pixels"),
    "no scan": (WITH + b"\xff\xd9", "without a scan"),
    "length of nothing": (WITH + b"\xff\xe1\0\0" + REST, "no length"),
    "no segment": (
        photo()[:20] + b"\x11" * 2**17 + photo()[20:],
        "no segment where one should begin",
    ),
    "fill bytes": (WITH + b"\xff" * 2**17 + REST, "no segment where one should begin"),
    "many segments": (WITH + segment(0xFE, b"") * (MAX_SEGMENTS + 1) + REST, "more than 2,000"),
    "cut PNG": (photo("PNG")[:20], "damaged|not in an image format"),
    "an icon": (photo("ICO"), "not in an image format"),
    "page": (b"<!DOCTYPE html><html>", "web page"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers_are_named_and_passed_over(name, tmp_path):
    raw, reason = BROKEN[name]
    for broken in (raw, tmp_path / "b.jpg"):
        (tmp_path / "b.jpg").write_bytes(raw)
        real, fake = files(start=100), files(quality=90)
        report = report_of([*real, broken], fake)
        ((row, shown, why),) = report.unreadable
        assert row == N and report.n_images == 2 * N and report.roc_auc > 0.95
        assert ("b.jpg" in shown) == (broken is not raw)
        assert reason == "no bytes" or any(part in why for part in reason.split("|")), why
        assert f"1 of {2 * N + 1} images cannot be used: row {N}" in str(report)


def test_missing_files_and_folders_are_named(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    bad = [tmp_path / "absent.jpg", tmp_path / "folder", tmp_path / "pipe", "http://x/a.jpg", 7]
    report = report_of(files(start=100), [*files(quality=90), *bad])
    assert [row for row, _, _ in report.unreadable] == list(range(2 * N, 2 * N + 5))
    reasons = [why for _, _, why in report.unreadable]
    for why, expected in zip(reasons, ["not exist", "folder", "pipe", "URL", "int"], strict=True):
        assert expected in why


HOSTILE = {
    "EXIF bomb": WITH + segment(0xE1, exif_bomb()) + REST,
    "thousands of EXIF segments": WITH + segment(0xE1, exif_bomb()) * 1900 + REST,
    "many segments": WITH + segment(0xFE, b"x" * 65000) * 1900 + REST,
    "many more segments": WITH + segment(0xE2, b"ICC_PROFILE\0") * 10**6 + REST,
    "fill bytes": WITH + b"\xff" * 10**8 + REST,
    "long text": photo("PNG", exif=exif_of(software="x" * 10**6)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_take_little_time_and_memory(name, tmp_path):
    path = tmp_path / "hostile"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    start = time.thread_time()
    try:
        header = read_header(path)
    except ValueError:
        header = {}
    seconds = time.thread_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2 and peak < 2**24
    assert all(len(value) < 1000 for value in header.values() if isinstance(value, str))


FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "PPM", "TGA", "MPO")


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_are_read_or_refused_without_a_warning(format):
    rng = np.random.RandomState(0)
    options = {"exif": exif_of(software="Editor")} if format in ("JPEG", "PNG", "WEBP") else {}
    whole = photo(format, **options)
    read_header(whole)
    for _ in range(150):
        raw = bytearray(whole[: rng.randint(4, len(whole))] if rng.uniform() < 0.3 else whole)
        for _ in range(rng.randint(1, 6)):
            raw[int(rng.uniform() ** 3 * len(raw))] = rng.choice(
                [0, 1, 0x7F, 0xFF, rng.randint(256)]
            )
        try:
            header = read_header(bytes(raw))
        except ValueError as error:
            assert str(error)
        else:
            assert header["width"] * header["height"] > 0 and header["density"] > 0
            assert all(isinstance(value, str | float) for value in header.values())


def test_pillow_reads_a_bounded_part_for_a_bounded_time(tmp_path, monkeypatch):
    raw = photo("TIFF")
    monkeypatch.setattr(headers, "_MAX_BYTES", 100)
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        read_header(raw + bytes(10**6))
    monkeypatch.setattr(headers, "_MAX_BYTES", 2**28)
    monkeypatch.setattr(headers, "_SECONDS", -1)
    with pytest.raises(ValueError, match="takes more than -1 seconds"):
        read_header(raw)


def test_files_of_more_pixels_than_can_be_decoded():
    jpeg = photo().replace(struct.pack(">HH", 64, 96), struct.pack(">HH", 60_000, 65_000), 1)
    assert read_header(jpeg)["width"] == 65_000
    png = photo("PNG")
    start = png[12:16] + struct.pack(">II", 60_000, 60_000) + png[24:29]
    png = png[:12] + start + struct.pack(">I", zlib.crc32(start)) + png[33:]
    with pytest.raises(ValueError, match="too large"):
        read_header(png)


def test_no_readable_file_of_a_class():
    with pytest.raises(ImageError, match="No file of class fake is left"):
        check_shortcuts([*files(), b"no"], ["real"] * N + ["fake"])


# labels, groups and folds -------------------------------------------------------------------------


def test_classes_with_too_few_groups():
    X, y = files(start=100) + files(quality=90), np.repeat(["real", "fake"], N)
    with pytest.raises(ValueError, match=r"in 1 group.*Use fewer folds \(cv=5\), or more groups"):
        check_shortcuts(X, y, groups=y)
    with pytest.raises(ValueError, match=r"Class fake has all its 40 .* 4 group.* 5 sides"):
        check_shortcuts(X, y, groups=np.arange(2 * N) % 4)
    with pytest.warns(ShortcutWarning):
        check_shortcuts(X, y, groups=np.arange(2 * N) % 4, cv=4)
    with pytest.raises(ValueError, match=r"too few .*\(4\) to be on 5 sides"):
        check_shortcuts(X[N - 4 : 2 * N], y[N - 4 : 2 * N])
    names = np.array(["alice", "bob", "carol", "dave"])[np.arange(2 * N) % 4]
    with pytest.raises(ValueError, match=r"in 4 group\(s\), 'alice', 'bob', 'carol', 'dave'"):
        check_shortcuts(X, y, groups=names)


def test_labels_that_cannot_be_compared():
    X = files()
    for y, found in (
        (np.arange(N) % 3, r"the labels \[0, 1, 2\]"),
        (np.zeros(N, int), r"the labels \[0\]"),
        (np.linspace(0, 1, N), "continuous values"),
    ):
        with pytest.raises(ValueError, match=f"y holds {found}.*two classes"):
            check_shortcuts(X, y)
    with pytest.raises(ValueError, match=r"y has 3 values for 40 images"):
        check_shortcuts(X, [0, 1, 0])
    with pytest.raises(ValueError, match="groups has 3 values for 40 images"):
        check_shortcuts(X, np.arange(N) % 2, groups=[0, 1, 2])
    # what the message says works
    y = np.repeat([0, 1, 2], N)
    with pytest.warns(ShortcutWarning):
        check_shortcuts(files(start=100) + files(start=200) + files(quality=90), y == 2)


def test_views_of_one_path_are_one_group(tmp_path):
    (tmp_path / "a.jpg").write_bytes(photo())
    X, y = [tmp_path / "a.jpg"] * 3 + files(), [0, 0, 0] + [1] * N
    with pytest.raises(ValueError, match="1 group"):
        check_shortcuts(X, y)


@pytest.mark.parametrize(
    "wrong", [{"cv": 1}, {"cv": 2.5}, {"confidence": 1}, {"confidence": 95}, {"file_time": "yes"}]
)
def test_parameters_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"The '{next(iter(wrong))}' parameter"):
        check_shortcuts(files(), [0, 1] * (N // 2), **wrong)


# the rule -----------------------------------------------------------------------------------------


def test_values_are_numbered_without_labels():
    codes = rule.coded(["a"] * 30 + ["b"] * 50 + ["c"] * 3 + ["d"] * 2)
    assert codes.tolist() == [1] * 30 + [0] * 50 + [2] * 5
    values = np.arange(1000.0)
    values[::7] = np.nan
    codes = rule.coded(values.tolist())
    assert len(np.unique(codes)) == 11 and len(np.unique(codes[::7])) == 1
    assert rule.coded([f"{i}" for i in range(5000)] * 10).max() == 200


def test_roc_auc_and_interval_are_those_of_scikit_learn():
    rng = np.random.RandomState(0)
    y, fold = rng.randint(0, 2, 300), rng.randint(0, 4, 300)
    score = (y + rng.normal(size=300) * 2).round(0)
    pairs = rule._Pairs(score, fold, y)
    for weight in (np.ones(300), rng.randint(0, 4, 300)):
        aucs, sizes = [], []
        for number in range(4):
            inside = fold == number
            aucs.append(roc_auc_score(y[inside], score[inside], sample_weight=weight[inside]))
            w = weight[inside]
            sizes.append((w @ y[inside]) * (w @ (1 - y[inside])))
        (auc,) = pairs.auc(weight[np.newaxis].astype(float))
        assert auc == pytest.approx(np.average(aucs, weights=sizes), abs=1e-12)


def test_a_rule_never_learns_from_what_it_judges():
    """Other labels in a fold change the scores of later folds only."""
    rng = np.random.RandomState(0)
    codes = [rng.randint(0, 3, 200) for _ in range(2)]
    y, groups = rng.randint(0, 2, 200), np.arange(200)
    fold = rule.folds_by_group(y, groups, 5, 0)
    before = rule.forward_scores(codes, y, fold)
    after = rule.forward_scores(codes, np.where(fold == 2, 1 - y, y), fold)
    assert (before == after)[fold <= 2].all() and not (before == after)[fold > 2].all()


def test_folds_keep_groups_together():
    rng = np.random.RandomState(0)
    groups = np.unique(rng.randint(0, 60, 200), return_inverse=True)[1]
    fold = rule.folds_by_group(groups % 2, groups, 5, 0)
    assert all(len(np.unique(fold[groups == g])) == 1 for g in np.unique(groups))
    assert np.bincount(fold).min() > 20


def null_case(seed, n_groups, largest):
    """Draw attributes, and labels that have nothing to do with them; a group has one label."""
    rng = np.random.RandomState(seed)
    groups = np.repeat(np.arange(n_groups), rng.randint(1, largest + 1, n_groups))
    attributes = [rng.choice(k, n_groups, p=rng.dirichlet(np.ones(k))) for k in (2, 3, 5)]
    numbers = [rng.normal(size=n_groups).round(1) for _ in range(3)]
    columns = [values[groups] for values in (*map(np.char.mod, ["%d"] * 3, attributes), *numbers)]
    y = rng.permutation(np.arange(n_groups) % 2)[groups]
    return [rule.coded(column.tolist()) for column in columns], y, groups


@pytest.mark.slow
@pytest.mark.parametrize(("n_groups", "largest"), [(60, 1), (150, 1), (150, 4)])
def test_false_alarms_on_shuffled_labels(n_groups, largest, monkeypatch):
    """An interval of 95 % excludes chance in about 5 % of the cases, above it and below it."""
    monkeypatch.setattr(rule, "_N_RESAMPLES", 200)
    above = below = 0
    n = 120
    for seed in range(n):
        codes, y, groups = null_case(seed, n_groups, largest)
        fold = rule.folds_by_group(y, groups, 5, seed)
        scores = rule.forward_scores(codes, y, fold)
        _, ((low, high),) = rule.auc_intervals([scores], y, groups, fold, 0.95, seed)
        above, below = above + (low > 0.5), below + (high < 0.5)
    # of 120, 6 are expected, and 14 or more have a probability of 0.003
    assert above + below < 14


def test_equal_headers_after_equalising():
    """What is said of the new files says nothing of the old ones, except of their length."""
    names = [name for a in ATTRIBUTES for name in (*a.kinds, *a.numbers) if name != "density"]
    sources = [
        photo(quality=95, subsampling="4:4:4", exif=exif_of(software="Editor")),
        photo("PNG", icc_profile=DISPLAY_P3),
        photo("WEBP"),
        photo(progressive=True, comment=b"x"),
        encode(RGB.resize((31, 64)).convert("CMYK"), "TIFF"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", LOAD)
        made = [each.to_bytes() for each in equalize_encoding(sources, image_size=48)]
    said = [read_header(raw) for raw in made]
    assert all({n: s[n] for n in names} == {n: said[0][n] for n in names} for s in said)
    assert said[0]["tables"].startswith("quality 75 (") and said[0]["layout"].count("APP") == 1
