"""The epochs of a fit, one by one, and the weights that are kept."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import OneCycleLR

from sklearn_dfd._core.network.rows import Rows
from sklearn_dfd._core.network.training import TailNet

_MEASURES = (
    "epoch",
    "train_loss",
    "train_loss_penalized",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
)


class Fitting:
    """One call of ``fit``: trains epoch by epoch, and can go back to the weights of an earlier one.

    Parameters
    ----------
    net : TailNet
    rows : Rows
        Rows to train on.
    valid_rows : Rows or None
        Rows that are measured after each epoch.
    n_before, kept_before : int
        Number of epochs that the net was trained for before, and the epoch that its weights are
        from.
    patience : int or None
        Epochs without a lower validation loss after which training is over, and the weights of
        the best epoch are kept. None keeps those of the last epoch.
    """

    def __init__(
        self,
        net: TailNet,
        rows: Rows,
        valid_rows: Rows | None = None,
        *,
        n_before: int = 0,
        kept_before: int = 0,
        patience: int | None = None,
    ) -> None:
        self.net, self.rows = net, rows
        self.n_epochs, self.kept_epoch = n_before, kept_before
        self._patience = patience
        self._best_loss = np.inf
        self._kept = copy.deepcopy(net.module_.state_dict())
        self._n_in_history = len(net.history)
        net.valid_rows = valid_rows

    def begin(self) -> None:
        """Tell skorch's callbacks that training begins."""
        self.net.notify("on_train_begin", X=self.rows, y=None)

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch.

        Returns
        -------
        measured : dict
            Its number, losses and accuracies.

        Raises
        ------
        LossError
            If a loss or a weight is no longer finite.
        """
        self.net.fit_loop(self.rows, epochs=1)
        self.n_epochs += 1
        self._n_in_history = len(self.net.history)
        measured = {**self.net.history[-1], "epoch": self.n_epochs}
        if self._patience is None or measured["valid_loss"] < self._best_loss:
            self._best_loss = measured.get("valid_loss", np.inf)
            self.kept_epoch = self.n_epochs
            self._kept = copy.deepcopy(self.net.module_.state_dict())
        return {key: measured[key] for key in _MEASURES if key in measured}

    def is_exhausted(self) -> bool:
        """Whether the validation loss has not fallen for as many epochs as it may."""
        return self._patience is not None and self.n_epochs - self.kept_epoch >= self._patience

    def end(self) -> None:
        """Keep the weights of the best epoch, or of the last one, and let go of the rows."""
        self.net.notify("on_train_end", X=self.rows, y=None)
        self.net.valid_rows = None
        if self._patience is not None and self.kept_epoch != self.n_epochs:
            self.net.restart(self._kept)

    def go_back(self) -> None:
        """Undo what was trained since the epoch that is kept, and let go of the rows."""
        self.net.valid_rows = None
        del self.net.history[self._n_in_history :]  # of an epoch that did not end
        self.net.restart(self._kept)


@contextmanager
def one_cycle(net: TailNet, n_steps: int) -> Iterator[None]:
    """Let the learning rate of a new net rise and fall over a number of steps."""
    if n_steps == 1:  # torch would take the last rate of the cycle, with which nothing is learned
        yield
        return
    schedule = LRScheduler(
        OneCycleLR,
        step_every="batch",
        event_name=None,
        max_lr=net.lr,
        total_steps=n_steps,
        cycle_momentum=False,
    )
    callback = ("one_cycle", schedule.initialize())
    net.callbacks_.append(callback)
    try:
        yield
    finally:
        net.callbacks_.remove(callback)
        for group in net.optimizer_.param_groups:
            group["lr"] = net.lr
