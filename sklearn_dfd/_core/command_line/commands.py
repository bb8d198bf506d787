"""The commands, their options, and what every command does about errors."""

import errno
import os
import sys
import traceback
import warnings
from typing import Any

import click

from sklearn_dfd._core.version import __version__

_USAGE, _BUG, _INTERRUPTED, _NOBODY_READS = 2, 4, 130, 141


class _Commands(click.Group):
    """Commands that end with one line about what was wrong, and an exit code that says what."""

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except KeyboardInterrupt:
                click.echo("Interrupted.", err=True)
                ctx.exit(_INTERRUPTED)
            except (ImportError, OSError, TypeError, ValueError) as error:
                if _nobody_reads(error):
                    _stop_writing()
                    ctx.exit(_NOBODY_READS)
                click.echo(f"Error: {error}", err=True)
                ctx.exit(_USAGE)
            except Exception:
                # an exit code of its own: that of Python, 1, means that something was detected
                traceback.print_exc()
                ctx.exit(_BUG)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


def _nobody_reads(error: Exception) -> bool:
    """Return whether standard output was closed, as by ``| head``; Windows has no error for it."""
    if os.name == "nt" and isinstance(error, OSError) and error.errno == errno.EINVAL:
        return error.filename is None
    return isinstance(error, BrokenPipeError)


def _stop_writing() -> None:
    """Let what is left in the buffer of standard output go nowhere, with no further error."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # it is not a file
        pass


_FILE = click.Path(dir_okay=False)


def _folder(command: Any) -> Any:
    """Add what the commands have in common that take a folder of labelled photographs."""
    command = click.option(
        "--group-pattern",
        metavar="REGEX",
        help="Regular expression for what photographs of one group share in their path within the "
        r"class folder, such as '(vid\d+)_frame'. Without it, photographs in subfolders of the "
        "same name form a group.",
    )(command)
    command = click.option(
        "--class-names",
        nargs=2,
        metavar="NAME NAME",
        help="Names of the two subfolders that are the classes, with the class to detect last, as "
        "in --class-names real fake. Without it, all subfolders are classes.",
    )(command)
    return click.argument("folder", type=click.Path(exists=True, file_okay=False))(command)


_overwrite = click.option("--overwrite", is_flag=True, help="Replace existing files.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sklearn-dfd")
def main() -> None:
    """Detect manipulated face photographs.

    Exit codes: 0 all is well, 1 detect --fail-on detected something, 2 the command cannot be
    carried out, 3 some files could not be read, 4 an error that should be reported, 130
    interrupted.
    """


@main.command(short_help="Say what is in a folder of photographs.")
@_folder
def check(folder: str, class_names: tuple[str, str] | None, group_pattern: str | None) -> None:
    """Say what is in FOLDER before a detector is trained on it.

    FOLDER has one subfolder per class. The command names the files that cannot be read, counts
    photographs of the same source, and says what a plain split would leak and whether headers and
    metadata reveal the labels. Without subfolders there are no labels, and only the first two are
    done. Exits with 3 if files cannot be read.
    """
    from sklearn_dfd._core.command_line.checking import check_folder

    click.get_current_context().exit(check_folder(folder, class_names, group_pattern))


@main.command(short_help="Train a detector on a folder, and measure it.")
@_folder
@click.option(
    "--output",
    "-o",
    required=True,
    type=_FILE,
    help="File of the detector: .joblib, .skops, or .onnx with --no-calibrate.",
)
@click.option(
    "--preset",
    type=click.Choice(["fast", "accurate", "method"]),
    default="fast",
    show_default=True,
    help="fast fits in seconds once the features are computed; accurate separates better, and "
    "takes about 25 minutes of one core per fold and 1,300 photographs; method is the default of "
    "make_deepfake_pipeline.",
)
@click.option(
    "--weights",
    metavar="FILE",
    default="imagenet",
    help="File of MobileNetV2's weights. Without it, the ImageNet weights are downloaded once.",
)
@click.option(
    "--pos-label",
    metavar="NAME",
    help="The class to detect: by default the last of --class-names, or 'fake' if there is one.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Number of folds of the cross-validation.",
)
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    help="Whether the probabilities are calibrated. An ONNX file holds uncalibrated ones.",
)
@click.option("--card", type=_FILE, help="File of a model card to write, in Markdown.")
@click.option(
    "--memory",
    type=click.Path(file_okay=False),
    help="Folder in which features are kept for the next run.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Device to compute on, such as cpu or cuda:0.",
)
@_overwrite
def train(**options: Any) -> None:
    """Train a detector on FOLDER, which has one subfolder per class.

    The command finds photographs of the same source and keeps them together, cross-validates the
    detector by group, calibrates it, trains it on all photographs and saves it. The last lines are
    its score with a 95 % interval, the score of guessing, and a band for detect --unsure. Files
    that cannot be read are named and left out.
    """
    from sklearn_dfd._core.command_line.training import train_detector

    train_detector(**options)


@main.command(short_help="Judge photographs and films with a detector.")
@click.argument("detector", type=click.Path(exists=True, dir_okay=False))
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--csv", type=click.Path(dir_okay=False, allow_dash=True), help="Write a CSV file.")
@click.option("--json", is_flag=True, help="Print a JSON object per line.")
@click.option(
    "--pos-label",
    metavar="NAME",
    help="The class to detect. By default 'fake' if there is such a class, or 1 if the classes are "
    "0 and 1.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Lowest probability at which a photograph or a film is called --pos-label.",
)
@click.option(
    "--unsure",
    nargs=2,
    type=float,
    metavar="LOW HIGH",
    help="Probabilities between which the answer is 'not sure'. At HIGH or above, a photograph or "
    "a film is called --pos-label; at LOW or below, the other class. The train command suggests a "
    "band.",
)
@click.option(
    "--frames-per-video",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Number of frames to judge per film, at even intervals of time.",
)
@click.option(
    "--fail-on", metavar="NAME", help="Exit with 1 if a photograph or a film is called this class."
)
@click.option(
    "--null",
    "-0",
    is_flag=True,
    help="Paths on standard input end with a zero byte instead of a line break.",
)
@_overwrite
def detect(**options: Any) -> None:
    """Judge photographs and films with a DETECTOR, the file of a trained detector.

    PATH is a photograph, a film (a video file), a folder, or - for a list of paths on standard
    input, one per line. In a folder, all image files and films are judged. There is a row for each
    photograph and film, in order; one that cannot be read has a row that says why.

    A film gets one answer, which combines those of its frames: the mean of their log-odds. A file
    is a film if its name ends in .mp4, .mov, .mkv, .webm, .avi or the like. Films need PyAV, which
    comes with the extra "video" of this package.

    A .joblib file runs code when it is loaded: load only what comes from people you trust. From a
    .skops file, only types of this package and of scikit-learn are loaded, and an .onnx file runs
    no code. An .onnx file also starts faster, since torch is not imported.

    Exits with 1 if a photograph or a film is called what --fail-on names ("not sure" does not
    count), otherwise with 3 if files could not be read, otherwise with 0.
    """
    from sklearn_dfd._core.command_line.detecting import detect_all

    click.get_current_context().exit(detect_all(**options))
