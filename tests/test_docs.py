"""The Python blocks of README.md and of the pages in docs run, page by page, as they are printed;
docs/api.md lists all public names; and the prose keeps to a few rules.

Three things differ when blocks run: a file of random weights replaces the ImageNet weights, which
are not downloaded here, threads replace a cluster, and what `SMALLER` names is made smaller to save
time.
"""

import hashlib
import importlib
import inspect
import pkgutil
import re
import warnings
from pathlib import Path

import pytest
from film_files import grey, make_film
from PIL import Image
from sklearn.base import ClassifierMixin, TransformerMixin

import sklearn_dfd
from sklearn_dfd import weights
from sklearn_dfd.datasets import make_spliced_photos

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Code on the pages, and the code that runs in its place.
SMALLER = {
    'memory="feature-cache")': 'memory="feature-cache", max_epochs=1)',
    'memory="feature-cache", random_state=0)': (
        'memory="feature-cache", random_state=0, max_epochs=1, image_size=64)'
    ),
    "GroupKFold(5)": "GroupKFold(2)",
    # threads instead of a cluster need no network
    'Client("scheduler:8786")': (
        "Client(processes=False, protocol='tcp', host='127.0.0.1', dashboard_address=None)"
    ),
    '"/shared/': '"shared/',
}

#: The first line of blocks that cannot run here, and why.
CANNOT_RUN: dict[str, str] = {
    "# sends files to a network": "test_calls_of_the_hub_are_right looks at it",
    "# fetches a file from a network": "test_calls_of_the_hub_are_right looks at it",
}


def blocks(page):
    """Yield the Python blocks of a page: the number of their first line, and the code."""
    text = page.read_text("utf-8")
    for match in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        yield text[: match.start(1)].count("\n") + 1, match.group(1)


WITH_BLOCKS = [page for page in PAGES if any(blocks(page))]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Change to a folder with the photographs that the pages mention."""
    photos = make_spliced_photos(24, random_state=0)
    for i, picture in enumerate(photos.data):
        folder = tmp_path / "faces" / ("fake" if photos.target[i] else "real") / f"person_{i // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i}.png")
    Image.fromarray(photos.data[0]).save(tmp_path / "photo.jpg")
    for i, name in enumerate(["real/000.mp4", "real/003.mp4", "fake/000_003.mp4"]):
        path = tmp_path / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_film(path, 9, picture=lambda n, size, i=i: grey(n + i, size))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stand_in_for_imagenet(weights_file, monkeypatch):
    digest = hashlib.sha256(Path(weights_file).read_bytes()).hexdigest()
    monkeypatch.setattr(weights, "imagenet_path", lambda: Path(weights_file))
    monkeypatch.setattr(weights, "_imagenet_hash", lambda: digest)


@pytest.mark.slow
@pytest.mark.usefixtures("photographs", "stand_in_for_imagenet")
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_blocks_run(page):
    pytest.importorskip("av")
    pytest.importorskip("distributed")
    pytest.importorskip("mapie")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("skops")
    namespace = {"__name__": "__main__"}
    with warnings.catch_warnings():
        # warnings do not stop a reader's own script either
        warnings.simplefilter("default")
        for line, code in blocks(page):
            if code.splitlines()[0] in CANNOT_RUN:
                continue
            for printed, smaller in SMALLER.items():
                code = code.replace(printed, smaller)
            # with the line numbers of the page, for tracebacks
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)


def test_calls_of_the_hub_are_right(tmp_path, monkeypatch):
    """The blocks that need a network run up to it, and what they pass on fits the signatures."""
    hub = pytest.importorskip("huggingface_hub")
    skops = pytest.importorskip("skops")

    from sklearn_dfd.export import make_model_card

    monkeypatch.chdir(tmp_path)
    calls = {}

    def instead(name, function, found=None):
        def called(*args, **kwargs):
            bound = inspect.signature(function).bind(*args, **kwargs)
            calls[name] = dict(bound.arguments)
            return found

        return called

    for name in ("create_repo", "upload_folder"):
        method = getattr(hub.HfApi, name)
        monkeypatch.setattr(hub.HfApi, name, instead(name, method))
    file = str(tmp_path / "to-share" / "detector.skops")
    download = instead("hf_hub_download", hub.hf_hub_download, file)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    photos = make_spliced_photos(24, random_state=0)
    pipe = sklearn_dfd.make_deepfake_pipeline(preset="fast", weights=None, image_size=64)
    pipe.fit(photos.data, photos.target)
    card = make_model_card(
        pipe,
        photos.target,
        pipe.predict_proba(photos.data),
        data="24 toy images.",
        license="bsd-3-clause",
        groups=photos.groups,
        random_state=0,
    )
    namespace = {"pipe": pipe, "card": card, "skops": skops}
    namespace["trusted"] = ["sklearn_dfd.features.MobileNetV2Features"]
    for _, code in blocks(ROOT / "docs" / "saving.md"):
        if code.splitlines()[0] in CANNOT_RUN:
            exec(compile(code, "saving.md", "exec"), namespace)
    assert list(calls) == ["create_repo", "upload_folder", "hf_hub_download"]
    assert sorted(path.name for path in calls["upload_folder"]["folder_path"].iterdir()) == [
        "README.md",
        "detector.skops",
    ]
    text = (tmp_path / "to-share" / "README.md").read_text("utf-8")
    assert text.startswith("---\n") and 'license: "bsd-3-clause"' in text
    assert (namespace["loaded"].predict(photos.data) == pipe.predict(photos.data)).all()


def test_no_exception_is_out_of_date():
    """Everything that is made smaller, or cannot run, still occurs on a page."""
    code = "".join(code for page in PAGES for _, code in blocks(page))
    assert ROOT / "README.md" in WITH_BLOCKS and ROOT / "docs" / "saving.md" in WITH_BLOCKS
    for printed in (*SMALLER, *CANNOT_RUN):
        assert printed in code


#: What its modules have in `__all__` is for other modules of the package.
NOT_FOR_USERS = "sklearn_dfd._core"

IMPORT = re.compile(r"^from (sklearn_dfd[\w.]*) import (\([^)]*\)|.*)$", flags=re.MULTILINE)


def public():
    """Yield the public names: in `__all__`, estimators, errors, and names that the pages import."""
    found = pkgutil.walk_packages(sklearn_dfd.__path__, "sklearn_dfd.")
    public = [module.name for module in found if not module.name.startswith(NOT_FOR_USERS)]
    for module in [sklearn_dfd, *map(importlib.import_module, public)]:
        names = getattr(module, "__all__", [])
        classes = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and value.__module__ == module.__name__
            and issubclass(value, (Exception, ClassifierMixin, TransformerMixin))
        ]
        yield from (f"{module.__name__}.{name}" for name in {*names, *classes} if name[0] != "_")
    scripts = [path.read_text("utf-8") for path in (ROOT / "examples").glob("*.py")]
    for text in [*scripts, *(code for page in PAGES for _, code in blocks(page))]:
        for module, names in IMPORT.findall(text):
            yield from (f"{module}.{name}" for name in re.findall(r"\w+", names))


def test_code_on_the_pages_is_narrow():
    wide = [
        f"{page.name}, line {line + i}: {text}"
        for page in PAGES
        for line, code in blocks(page)
        for i, text in enumerate(code.splitlines())
        if len(text) > 79
    ]
    assert wide == []


#: Words that do not say what is meant, and what does.
PLAIN = {
    r"[Ss]quash(ed|ing)?\b": "resized (aspect ratio not kept)",
    r"(?i)deep[ -]fake": "deepfake",
    r"\b(one|a) (row|image|file|thread|photograph) an? (image|row|file|core|photograph)\b": "per",
    r"\b(images|rows|pixels) an? (second|core|image|row)\b": "per",
    r"tells? more apart|told more apart": "separates better",
    r"[Ff]oretold|[Ff]oretells": "predicted",
    r"sub-folder": "subfolder",
    r"\b(the|a|same|MIT|BSD-3-Clause) license\b": "licence",
    r"whoever asked|Call nobody|joblib's affair|what is no image": "plain words",
}
PROSE = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"))]


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_prose_is_plain(page):
    text = page.read_text("utf-8")
    generated = re.compile(r"<!-- rooms -->.*?<!-- end of rooms -->", flags=re.DOTALL)
    text = generated.sub("", text)  # the modules' own first lines
    found = [
        f"{match.group()!r}: {better}"
        for pattern, better in PLAIN.items()
        for match in re.finditer(pattern, text)
    ]
    assert found == []


def test_first_screens_say_what_to_expect():
    """Whose photographs, which edits, and figures of one protocol with what guessing reaches."""
    readme = (ROOT / "README.md").read_text("utf-8")
    first = readme[: readme.index("```python")]
    for said in ("no trained detector", "edits of faces only", "five folds", "600 x 600", "GAN"):
        assert said in first.replace("\n  ", " "), said
    assert readme.index(".fit(") < readme.index("GridSearchCV(")
    assert readme.index("find_source_groups(") < readme.index("cross_val_score(")
    # both pages show it: the first page of the documentation includes that of the README
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert index.index("start-after: <!-- start -->") < index.index("![")


def test_figures_of_the_first_screen_are_of_one_protocol():
    """Each is rounded from one table of the page that says how it was measured, its first line."""
    readme = (ROOT / "README.md").read_text("utf-8")
    measured = (ROOT / "docs" / "real_and_fake_faces.md").read_text("utf-8")
    table = measured[measured.index("## At full size") : measured.index("## The small copies")]
    assert "five folds" in table
    for ours, theirs in (
        ("the default detector", "the method"),
        ('`preset="fast"`, which fits in seconds', "fast"),
        ('`preset="accurate"`', "accurate"),
    ):
        shown = re.search(rf"^\| {re.escape(ours)} \|(.*)$", readme, re.MULTILINE).group(1)
        full = re.search(rf"^\| {re.escape(theirs)} \|(.*)$", table, re.MULTILINE).group(1)
        rounded = [f"{float(figure):.2f}" for figure in re.findall(r"\d\.\d+", full)]
        assert re.findall(r"\d\.\d+", shown) == rounded


def test_no_name_is_listed_twice():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    listed = re.findall(r"^   ([A-Za-z_][\w.]*)$", text, flags=re.MULTILINE)
    assert len(listed) == len(set(listed)) > 25


def test_first_lines_have_no_references():
    """Lists show the first line of a docstring, where a reference would lead nowhere."""
    with_references = [
        name
        for name in sorted(set(public()))
        if (text := inspect.getdoc(looked_up(name))) and "]_" in text.split("\n\n")[0]
    ]
    assert with_references == []


def looked_up(dotted):
    """Return the object with a name, which may be a module itself."""
    module, _, name = dotted.rpartition(".")
    owner = importlib.import_module(module)
    return getattr(owner, name) if hasattr(owner, name) else importlib.import_module(dotted)


def test_the_api_is_complete():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    listed = re.findall(r"^   ([A-Za-z_][\w.]*)$", text, flags=re.MULTILINE)
    listed += re.findall(r"`((?:metrics|feature_store)\.\w+)`", text)
    documented = [looked_up(f"sklearn_dfd.{name}") for name in listed]
    promised = sorted(set(public()))
    assert {"sklearn_dfd.metrics.tpr_at_fpr", "sklearn_dfd.exceptions.ImageError"} <= set(promised)
    missing = [
        name
        for name in promised
        if not inspect.ismodule(value := looked_up(name))
        and not any(value is other for other in documented)
    ]
    assert missing == []
