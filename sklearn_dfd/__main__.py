"""The command line: ``sklearn-dfd``, which is ``python -m sklearn_dfd``."""

from sklearn_dfd._core.command_line.commands import main

if __name__ == "__main__":
    main()
