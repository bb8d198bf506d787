"""What it costs that films are decoded in other processes: that, and decoding them here, in turns.

python benchmarks/film_processes.py [ROUNDS]
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from camera import write_camera_films
from works import our_frames

from sklearn_dfd._core.images import film_pool, film_process
from sklearn_dfd._core.images.film import OpenFilm

N_FILMS, N_FRAMES = 6, 16


def seconds_of(call):
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(n_rounds=5):
    """Print medians of rounds."""
    ways = {"here": OpenFilm, "in other processes": film_process.open_film}
    with tempfile.TemporaryDirectory() as folder:
        films = write_camera_films(Path(folder), N_FILMS)
        film = film_pool._look(films[0])
        starts = []
        for _ in range(n_rounds):
            starts.append(seconds_of(lambda: film_process.open_film(film, None).close()))
            film_process._processes.end()
        print(f"a new process, and a film opened in it: {np.median(starts):.2f} s")
        for known in (False, True):
            seconds = {name: [] for name in ways}
            for i in range(1 + n_rounds):
                for name, film_pool.open_film in ways.items():
                    work = our_frames(films, N_FRAMES, known)
                    took = seconds_of(work)
                    if i:  # at first, processes are started
                        seconds[name].append(took)
            ratios = np.divide(seconds["in other processes"], seconds["here"])
            print(
                f"{N_FRAMES} frames of {N_FILMS} films{', times known' if known else ''}:",
                *(f"{name} {np.median(took):.2f} s," for name, took in seconds.items()),
                f"ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})",
            )
        film_process._processes.end()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
