"""Tests of sklearn_dfd.weights: ImageNet weights, from torch's cache or downloaded."""

import hashlib
import io
import os
import shutil
import urllib.error

import pytest
import torch
from torchvision_reference import assert_same_arrays

from sklearn_dfd import weights
from sklearn_dfd.exceptions import WeightsError
from sklearn_dfd.weights import fingerprint, imagenet_path, load_weights


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch."""
    monkeypatch.delenv("TORCH_HUB", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def published(weights_file, cache, tmp_path, monkeypatch):
    """The generated weights, at a URL with their hash in its name."""
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    path = tmp_path / "server" / f"mobilenet_v2-{digest[:8]}.pth"
    path.parent.mkdir()
    shutil.copyfile(weights_file, path)
    monkeypatch.setattr(weights, "IMAGENET_URL", path.as_uri())
    return path


@pytest.fixture
def offline(monkeypatch):
    """Let urllib fail as it does without a network."""

    def urlopen(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)


def flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def files_under(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


# "imagenet": found in torch's cache


def test_imagenet_means_the_first_version_of_torchvisions_weights(cache):
    assert weights.IMAGENET_URL.endswith("/mobilenet_v2-b0353104.pth")
    assert imagenet_path() == cache / "mobilenet_v2-b0353104.pth"


def test_imagenet_in_the_cache_is_loaded_without_network(published, cache, state, offline):
    cache.mkdir(parents=True)
    shutil.copyfile(published, cache / published.name)
    assert_same_arrays(load_weights("imagenet"), state)


def test_imagenet_in_the_cache_is_verified(cache, weights_file):
    cache.mkdir(parents=True)
    shutil.copyfile(weights_file, imagenet_path())  # whole, and not ImageNet's
    with pytest.raises(WeightsError) as caught:
        load_weights("imagenet")
    message = str(caught.value)
    assert str(imagenet_path()) in message
    assert "Delete" in message
    assert "b0353104" in message
    assert hashlib.sha256(weights_file.read_bytes()).hexdigest()[:8] in message


@pytest.mark.parametrize("keep_time", [False, True], ids=["new time", "same time"])
def test_flipped_byte_is_noticed_though_the_file_was_loaded_before(published, cache, keep_time):
    good = fingerprint(load_weights("imagenet"))
    file = cache / published.name
    before = file.stat()
    flip_byte(file, before.st_size // 2)
    if keep_time:  # as tools that copy files do, and as failing disks do
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(WeightsError, match="damaged"):
        load_weights("imagenet")
    file.unlink()
    assert fingerprint(load_weights("imagenet")) == good


def test_directory_in_the_place_of_imagenet(cache):
    imagenet_path().mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"mobilenet_v2-b0353104\.pth"):
        load_weights("imagenet")


# "imagenet": downloaded


def test_imagenet_is_downloaded_once(published, cache, state, monkeypatch):
    assert_same_arrays(load_weights("imagenet"), state)
    assert files_under(cache) == [cache / published.name]
    weights._read.cache_clear()
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    assert_same_arrays(load_weights("imagenet"), state)


def test_download_asks_torch_to_check_the_hash(published, cache, monkeypatch):
    calls = []

    def download(url, dst, hash_prefix=None, **kwargs):
        calls.append((url, dst, hash_prefix))
        shutil.copyfile(published, dst)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    load_weights("imagenet")
    load_weights("imagenet")
    sha256 = hashlib.sha256(published.read_bytes()).hexdigest()
    assert calls == [(published.as_uri(), str(cache / published.name), sha256[:8])]


def test_no_network(cache, offline):
    with pytest.raises(WeightsError) as caught:
        load_weights("imagenet")
    message = str(caught.value)
    assert "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth" in message
    assert str(cache / "mobilenet_v2-b0353104.pth") in message
    assert "weights=" in message
    assert "Name or service not known" in message
    assert files_under(cache) == []


def test_network_that_breaks_off_leaves_nothing_behind(cache, weights_file, monkeypatch):
    class Response(io.BytesIO):
        def info(self):
            return self

        def get_all(self, name):
            return ["14000000"]

        def read(self, size):
            if self.tell() > 200_000:
                raise TimeoutError("timed out")
            return super().read(size)

    monkeypatch.setattr(torch.hub, "urlopen", lambda *_: Response(weights_file.read_bytes()))
    with pytest.raises(WeightsError, match="timed out"):
        load_weights("imagenet")
    assert files_under(cache) == []


def test_other_file_at_the_url_leaves_nothing_behind(published, cache):
    flip_byte(published, 1000)
    with pytest.raises(WeightsError, match="hash"):
        load_weights("imagenet")
    assert files_under(cache) == []


def test_cache_that_cannot_be_made(tmp_path, monkeypatch, cache):
    (tmp_path / "torch").write_text("a file where the cache would be")
    with pytest.raises(WeightsError, match="weights="):
        load_weights("imagenet")
