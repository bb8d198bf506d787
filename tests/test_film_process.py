"""Films in other processes: the same frames and errors, and what becomes of a process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sklearn_dfd._core.images import film_pool, film_process, film_server
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.images.film import OpenFilm
from sklearn_dfd._core.images.film_process import FilmInProcess, open_film
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd.datasets import VideoFrame, frames
from sklearn_dfd.exceptions import ImageError

pytest.importorskip("av")
from film_files import make_film, make_sound, number_of

ROOT = Path(__file__).parents[1]
PATIENCE = 60  # seconds for what takes a few
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")


@pytest.fixture(autouse=True)
def no_process_from_other_tests():
    film_process._processes.end()
    yield
    film_process._processes.end()


@pytest.fixture
def path(tmp_path):
    return make_film(tmp_path / "film.mp4", gop=7)


def looked_up(path):
    return film_pool._look(str(path))


def pid_of(opened):
    return opened._process._popen.pid


def idle():
    return [process._popen for process in film_process._processes._idle]


def test_the_same_frames_times_size_and_position(path):
    film = looked_up(path)
    here, there = OpenFilm(film, None), open_film(film, None)
    assert isinstance(there, FilmInProcess) and there.size == here.size == (64, 48)
    assert there.position is None
    times = here.times(7)
    assert there.times(7) == times == there.times(7, decode=False)
    for seconds in (*times, times[2], 0.1 + 0.2, -1):
        one, other = here.image_at(seconds), there.image_at(seconds)
        assert (one.mode, one.size, one.tobytes()) == (other.mode, other.size, other.tobytes())
        assert there.position == here.position is not None
    here.close()
    there.close()


def raised(call):
    with pytest.raises(Exception) as error:
        call()
    return type(error.value), str(error.value)


def test_the_same_errors(tmp_path, path):
    sound = make_sound(tmp_path / "sound.m4a")
    text = tmp_path / "text.mp4"
    text.write_text("This is no film.")
    changed = make_film(tmp_path / "changed.mp4", 3)
    absent = make_film(tmp_path / "absent.mp4", 3)
    films = {name: looked_up(name) for name in (path, sound, text, changed, absent)}
    make_film(changed, 4)
    absent.unlink()
    for way in (sound, text, changed, absent):
        assert raised(lambda way=way: open_film(films[way], None)) == raised(
            lambda way=way: OpenFilm(films[way], None)
        )
    assert raised(lambda: open_film(films[path], 99)) == raised(lambda: OpenFilm(films[path], 99))
    here, there = OpenFilm(films[path], None), open_film(films[path], None)
    assert raised(lambda: there.image_at(99)) == raised(lambda: here.image_at(99))
    with path.open("ab") as file:
        file.write(b"more")
    for call in ("image_at", "times"):
        error, message = raised(lambda call=call: getattr(there, call)(1))
        assert (error, message) == raised(lambda call=call: getattr(here, call)(1))
        assert error is ValueError and "changed after its frames had been looked up" in message
    here.close()
    there.close()
    assert len(idle()) == 1 and len(film_process._processes._all) == 1  # an error ends no process


def test_limits_and_missing_packages_where_films_are_decoded(path, in_child):
    in_child("film_file.FRAME_SECONDS = -1")
    with pytest.raises(ImageError, match=r"film.mp4.*more than -1 seconds of a core"):
        VideoFrame(path, 0).to_image()
    in_child("sys.modules['av'] = None")
    with pytest.raises(ImportError, match=r'A film needs av, .*pip install "sklearn-dfd\[video\]"'):
        VideoFrame(path, 0).to_image()
    in_child("film.OpenFilm.pixels_at = lambda *_: 1 / 0")
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ZeroDivisionError: division by zero"):
        VideoFrame(path, 0).to_image()


@pytest.mark.parametrize("how", ["segfault", "abort", "exit"])
def test_a_crash_is_an_error_of_that_film_alone(tmp_path, in_child, how):
    crashing = make_film(tmp_path / f"{how}.mp4")
    others = [make_film(tmp_path / f"{i}.mp4") for i in range(2)]
    for path in (crashing, *others):
        assert len(frames(path, 4)) == 4  # which this crash comes after
    X = [VideoFrame(path, i / 25) for i in (3, 9) for path in (others[0], crashing, others[1])]
    endings = {"segfault": "SIGSEGV", "abort": "SIGABRT", "exit": "exit status 3"}
    ending = endings[how] if os.name == "posix" else "exit status "
    with pytest.raises(ImageError) as error:
        read_all(X, to_rgb)
    found = [(row, name) for row, name, _ in error.value.failures]
    assert found == [(row, X[row].name) for row in (1, 4)]
    for _, _, fault in error.value.failures:
        assert fault.startswith(f"the process that decodes it ended ({ending}")
        assert fault.endswith("): FFmpeg crashed, or memory ran out")
    good = [row for row in range(6) if row not in (1, 4)]
    shown = [number_of(image) for image in read_all([X[row] for row in good], to_rgb)]
    assert shown == [3, 3, 9, 9]
    assert all(process.poll() is None for process in idle())


def test_detect_gives_a_row_with_the_reason(tmp_path, in_child):
    from sklearn_dfd import detect, make_deepfake_pipeline

    paths = [make_film(tmp_path / f"{name}.mp4", 20) for name in ("a", "segfault", "b")]
    with paths[1].open("ab") as film:
        film.write(b"\0\0\0\x08free")  # so that its features are not those of another film
    X = np.array([VideoFrame(path, i / 25) for path in paths for i in (2, 12)])
    pipe = make_deepfake_pipeline(
        weights=None, layer=15, image_size=32, max_epochs=1, random_state=0, engine="torch"
    ).fit(X[[0, 1, 4, 5]], [0, 1, 0, 1])
    table = detect(pipe, X)
    faults = table["error"].tolist()
    assert [bool(fault) for fault in faults] == [False, False, True, True, False, False]
    assert all("the process that decodes it ended (" in fault for fault in faults[2:4])
    np.testing.assert_allclose(table["probability_1"][:2], table["probability_1"][4:], atol=1e-6)


def test_a_process_decodes_one_film_after_another(path, tmp_path):
    pids = set()
    for i in range(3):
        opened = open_film(looked_up(make_film(tmp_path / f"{i}.mp4", 3)), None)
        pids.add(pid_of(opened))
        opened.close()
        (tmp_path / f"{i}.mp4").unlink()  # on Windows, only where nobody has it open
    assert len(pids) == 1
    with film_pool.films_stay_open():
        for i in range(3):
            VideoFrame(make_film(tmp_path / f"{i}.mp4", 3), 0).to_image()
        assert len(film_pool._pool._idle) == 3 and not idle()
    assert len(idle()) == len(film_process._processes._all) == 3


def test_a_process_that_ends_while_it_waits_harms_nobody(path, in_child):
    frame = VideoFrame(path, 0.2)
    frame.to_image()
    (first,) = idle()
    first.kill()
    assert number_of(frame.to_image()) == 5
    (second,) = idle()
    assert second.pid != first.pid and first.returncode is not None
    in_child("film_server.IDLE_SECONDS = 0.2")
    assert number_of(frame.to_image()) == 5
    (third,) = idle()
    assert third.wait(PATIENCE) == 0
    assert number_of(frame.to_image()) == 5
    with film_pool.films_stay_open():
        frame.to_image()
        time.sleep(1)  # a film that is open is kept
        assert number_of(frame.to_image()) == 5


@posix
def test_an_interrupt_ends_the_process(tmp_path, in_child):
    slow = VideoFrame(make_film(tmp_path / "slow.mp4"), 0.2)
    other = VideoFrame(make_film(tmp_path / "film.mp4"), 0.2)
    other.to_image()
    (process,) = idle()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            slow.to_image()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 30
    assert process.returncode == -signal.SIGKILL and not film_process._processes._all
    assert number_of(other.to_image()) == 5


SCRIPT = """
import sys
print("started", flush=True)
from sklearn_dfd.datasets import VideoFrame
from sklearn_dfd._core.images import film_process
for path in sys.argv[1:]:
    print(path, VideoFrame(path, 0.2).to_image().size, flush=True)
"""


def start(script, *arguments):
    command = [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", str(script)]
    path = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,  # which the process for films has open, too
        text=True,
    )


def test_a_script_without_a_main_guard_runs_once_and_leaves_nothing_behind(tmp_path, path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with start(script, path) as process:
        printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and errors == ""
    assert printed.splitlines() == ["started", f"{path} (64, 48)"]


@posix
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_script_that_is_ended_leaves_nothing_behind(tmp_path, path, in_child, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    slow = make_film(tmp_path / "slow.mp4")
    begun = time.monotonic()
    with start(script, path, slow) as process:
        for _ in range(2):
            process.stdout.readline()
        time.sleep(0.5)  # it now waits for the slow film
        process.send_signal(number)
        # the end of standard error is that of the last process that has it open
        _, errors = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - begun < 50 and process.returncode == -number
    assert errors.count("Traceback") == (number == signal.SIGINT)


@posix
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_fork_leaves_the_processes_to_its_parent(path):
    with film_pool.films_stay_open():
        VideoFrame(path, 0.2).to_image()
        (process,) = film_process._processes._all
        child = os.fork()
        if not child:
            good = False
            try:
                good = not film_process._processes._all and process._popen.stdin.closed
                good &= number_of(VideoFrame(path, 0.4).to_image()) == 10
                film_process._processes.end()
            finally:
                os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert number_of(VideoFrame(path, 0.4).to_image()) == 10
    assert idle() == [process._popen]


@pytest.mark.parametrize("executable", ["", None, "/opt/program", "frozen"])
def test_programs_that_contain_python_decode_by_themselves(path, monkeypatch, executable):
    if executable == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", executable)
    assert number_of(VideoFrame(path, 0.2).to_image()) == 5
    assert not film_process._processes._all


def test_where_no_process_can_be_started(tmp_path, path, monkeypatch):
    reason = r"film.mp4'.*: no process to decode it can be started \(.*{}"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "no" / "python"))
        with pytest.raises(ImageError, match=reason.format("")):
            VideoFrame(path, 0.2).to_image()
    monkeypatch.setattr(film_process, "_START", "import sys; sys.exit(4)")
    with pytest.raises(ImageError, match=reason.format("exit status 4")):
        frames(path)
    assert not film_process._processes._all


def test_where_the_process_works_does_not_matter(tmp_path, monkeypatch):
    """Neither where it was started, nor where this one has gone meanwhile."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "json.py").write_text("raise SystemExit(5)")
        make_film(tmp_path / name / "film.mp4", 9 if name == "one" else 20)
    for name, n_frames in (("one", 9), ("other", 20)):
        monkeypatch.chdir(tmp_path / name)
        assert len(frames("film.mp4", 30)) == n_frames
    assert len(film_process._processes._all) == 1


def test_the_process_imports_little(path):
    code = f"import json, sys, {film_server.__name__}, av; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    packages = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not packages & {"torch", "skorch", "sklearn", "scipy", "joblib", "pandas", "cv2"}
