"""What users write, for a type checker. `# refused` ends a line that it must not accept.

A comment behind `reveal_type` is the type of what it is given: none of them is Any.
"""

from typing import reveal_type

import numpy as np

from sklearn_dfd import (
    AugmentedClassifier,
    DeepFakeClassifier,
    MobileNetV2Features,
    detect,
    make_deepfake_pipeline,
)
from sklearn_dfd.augmentation import FaceCrop, FaceCrops, ImageAugmenter, augment, equalize_encoding
from sklearn_dfd.datasets import load_image_folder, make_spliced_photos
from sklearn_dfd.feature_store import FeatureStore, MemoryStore
from sklearn_dfd.inspection import TrainingHistoryDisplay
from sklearn_dfd.metrics import (
    bootstrap_interval,
    choose_unsure_band,
    equal_error_rate,
    make_group_scorer,
    tpr_at_fpr,
)
from sklearn_dfd.model_selection import (
    check_leakage,
    check_shortcuts,
    find_source_groups,
    train_test_group_split,
)
from sklearn_dfd.robustness import evaluate_robustness

# the factory

pipe = make_deepfake_pipeline(15, memory="cache", lr=3e-4, random_state=0)
reveal_type(pipe)  # sklearn.pipeline.Pipeline
reveal_type(make_deepfake_pipeline(preset="accurate"))  # AugmentedClassifier
reveal_type(make_deepfake_pipeline(preset="fast", C=1e-2))  # sklearn.pipeline.Pipeline
make_deepfake_pipeline(preset="fast", lr=1e-4)  # refused
make_deepfake_pipeline("pool", device=["cuda:0", "cuda:1"], image_size=160)
make_deepfake_pipeline(layer="oops")  # refused
make_deepfake_pipeline(preset="x")  # refused
make_deepfake_pipeline(learning_rate=1e-4)  # refused
make_deepfake_pipeline(device=3)  # refused

# features

features = MobileNetV2Features("pool", weights=None, memory=MemoryStore(10**9), n_jobs=2)
MobileNetV2Features(on_error="nan", engine="onnxruntime", precision="bfloat16")
MobileNetV2Features(13, pooling="grid")
MobileNetV2Features(layer="oops")  # refused
MobileNetV2Features(pooling="max")  # refused
MobileNetV2Features(device=3)  # refused
MobileNetV2Features(on_error="ignore")  # refused
MobileNetV2Features(engine="tensorflow")  # refused
MobileNetV2Features(precision="float16")  # refused
MobileNetV2Features(decoding="fast", max_pixels=4_000_000)
MobileNetV2Features(decoding="draft")  # refused
MobileNetV2Features(image_size="224")  # refused
MobileNetV2Features(size=224)  # refused
reveal_type(features.fit(["a.jpg"]))  # MobileNetV2Features
reveal_type(features.get_feature_names_out())  # numpy.ndarray

# the classifier

X, y = np.zeros((4, 20), dtype=np.float32), np.array([0, 1, 0, 1])
clf = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), class_weight="balanced")
DeepFakeClassifier(layer="oops")  # refused
DeepFakeClassifier(device=3)  # refused
DeepFakeClassifier(lr="fast")  # refused
DeepFakeClassifier(lr_schedule="cosine")  # refused
DeepFakeClassifier(class_weight="equal")  # refused
DeepFakeClassifier(early_stopping="yes")  # refused
reveal_type(clf.fit(X, y, sample_weight=None, groups=[0, 0, 1, 1]))  # DeepFakeClassifier
reveal_type(clf.partial_fit(X, y, classes=[0, 1]))  # DeepFakeClassifier
reveal_type(clf.predict(X))  # numpy.ndarray
reveal_type(clf.predict_proba(X))  # numpy.ndarray
clf.fit(X)  # refused
clf.predict_proba(X, y)  # refused

# views

detector = AugmentedClassifier(pipe, n_views=2)
reveal_type(detector.fit(["a.jpg", "b.jpg"], [0, 1]))  # AugmentedClassifier
reveal_type(detector.predict(["a.jpg"]))  # numpy.ndarray
reveal_type(detector.predict_proba(["a.jpg"]))  # numpy.ndarray
AugmentedClassifier(pipe, n_views="many")  # refused
AugmentedClassifier(pipe, recipe="oops")  # refused
ImageAugmenter(2, random_state=0)
ImageAugmenter(recipe="oops")  # refused
augment(["a.jpg"], [0], recipe="oops")  # refused

# photographs

photos = make_spliced_photos(24, random_state=0)
reveal_type(photos)  # sklearn.utils._bunch.Bunch
reveal_type(load_image_folder("faces", on_error="warn"))  # sklearn.utils._bunch.Bunch
load_image_folder("faces", on_error="ignore")  # refused
load_image_folder(3)  # refused
make_spliced_photos("24")  # refused

# splits and scores

reveal_type(find_source_groups(["a.jpg", "b.jpg"]))  # numpy.ndarray
check_leakage(["a.jpg"], ["b.jpg"])
train_test_group_split(3)  # refused
reveal_type(equal_error_rate([0, 1], [0.2, 0.8]))  # float
reveal_type(tpr_at_fpr([0, 1], [0.2, 0.8], max_fpr=0.01))  # float
tpr_at_fpr([0, 1], [0.2, 0.8], max_fpr="1 %")  # refused
tpr_at_fpr([0, 1], [0.2, 0.8], 0.01)  # refused
reveal_type(make_group_scorer("roc_auc", pos_label="fake"))  # GroupScorer
reveal_type(make_group_scorer("f1").set_score_request(groups="film"))  # GroupScorer
make_group_scorer("roc_auc", aggregate="mean")  # refused
make_group_scorer(3)  # refused
bootstrap_interval([0, 1], [0.2, 0.8])  # refused
evaluate_robustness(pipe)  # refused

# stores, tables and displays

reveal_type(FeatureStore("store").info()["n_rows"])
FeatureStore("store", dtype="float64")  # refused
MemoryStore("1 GB")  # refused
detect(pipe, ["a.jpg"], pos_label=1, threshold=0.5)
detect(pipe, ["a.jpg", "b.jpg"], groups=["film", "film"], aggregate="median")
detect(pipe, ["a.jpg"], groups=["film"], aggregate="max")  # refused
detect(pipe, ["a.jpg"], unsure=(0.2, 0.9))
detect(pipe, ["a.jpg"], unsure=0.2)  # refused
reveal_type(choose_unsure_band([0, 1], [0.2, 0.8]))  # tuple[tuple[float, float], float]
detect(pipe)  # refused
detect(pipe, ["a.jpg"], treshold=0.5)  # refused
reveal_type(TrainingHistoryDisplay.from_estimator(clf))  # TrainingHistoryDisplay

# faces

reveal_type(FaceCrops(0.3, on_missing="nan").fit(["a.jpg"]))  # FaceCrops
FaceCrops(on_missing="skip")  # refused
reveal_type(FaceCrop("a.jpg").find_box())  # tuple[int, int, int, int] | None

# what the files give away

report = check_shortcuts(["a.jpg"], ["real"], groups=[0], cv=3, file_time=True)
reveal_type(report)  # ShortcutReport
reveal_type(report.roc_auc)  # float
reveal_type(report.attributes)  # ShortcutRow
check_shortcuts(["a.jpg"], [0], cv="five")  # refused
reveal_type(equalize_encoding(["a.jpg"], image_size=224))  # numpy.ndarray
equalize_encoding(["a.jpg"], quality="high")  # refused
