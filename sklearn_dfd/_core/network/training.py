"""The skorch net that trains tails: whole batches, an L1 penalty, and epochs that are measured.

It knows torch and skorch, and nothing of scikit-learn's conventions.
"""

import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from skorch import NeuralNet
from skorch.callbacks import EpochTimer, PrintLog
from skorch.dataset import unpack_data
from skorch.utils import to_numpy, to_tensor
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sklearn_dfd._core.network.rows import Rows
from sklearn_dfd._core.network.tail import Tails
from sklearn_dfd._core.runtime.devices import in_halves
from sklearn_dfd.exceptions import LossError

# measured: maps of larger batches leave the cache, and their memory is returned and fetched again
EVALUATION_BATCH_SIZE = 64
# measuring all rows would take a quarter of the time of training; `distinct_rows` orders them by
# class, and at random within a class, so evenly spaced rows are a stratified sample
N_MEASURED = 256


class _Batches:
    """An iterable of the batches of some rows, which starts over in each epoch."""

    def __init__(self, rows: Rows, batch_size: int, **options: Any) -> None:
        self.rows, self.batch_size, self.options = rows, batch_size, options

    def __iter__(self) -> Iterator[Any]:
        return self.rows.batches(self.batch_size, **self.options)


class _Average:
    """The exponential moving average of a module's weights and statistics over its steps."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = AveragedModel(module, multi_avg_fn=self._move, use_buffers=True)

    def update(self, module: nn.Module) -> None:
        """Move towards the weights of another step."""
        self.model.update_parameters(module)

    def swap(self, module: nn.Module) -> None:
        """Exchange contents with the tensors of the module, which remain its own tensors."""
        averages = self.model.module.state_dict(keep_vars=True)
        for name, tensor in module.state_dict(keep_vars=True).items():
            tensor.data, averages[name].data = averages[name].data, tensor.data

    @torch.no_grad()
    def _move(self, averages: Any, weights: Any, n_averaged: Any) -> None:
        if not torch.is_floating_point(averages[0]):  # counts of batches
            torch._foreach_copy_(averages, weights)
            return
        n = float(n_averaged)
        # so that the first steps, far from where training leads, soon weigh little
        decay = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averages, weights, 1 - decay)


class TailNet(NeuralNet):
    """Trains tails on rows of features.

    Parameters
    ----------
    module : Tails
        Initialised; it is trained in place.
    l1_factor : float
        Weight of the L1 norm of all parameters in the objective.
    label_smoothing : float
        Share of each label that the objective spreads evenly over all classes.
    ema_decay : float or None
        Decay of an average of the weights, which ``module_`` holds outside of training steps.
    generator : torch.Generator
        Determines the order of the rows.
    valid_rows : Rows or None
        Rows that are measured after each epoch, in addition to those trained on.
    **kwargs
        Parameters of skorch.
    """

    module_: Tails
    verbose: int

    # what skorch notes when it makes an optimizer, which is made later here
    prefixes_ = [*NeuralNet.prefixes_, "optimizer"]  # noqa: RUF012
    cuda_dependent_attributes_ = ["optimizer_"]  # noqa: RUF012
    _optimizers = ["optimizer"]  # noqa: RUF012

    def __init__(
        self,
        module: Tails,
        *,
        l1_factor: float = 0.0,
        label_smoothing: float = 0.0,
        ema_decay: float | None = None,
        generator: torch.Generator | None = None,
        valid_rows: Rows | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            module,
            criterion=torch.nn.CrossEntropyLoss,
            criterion__reduction="none",
            criterion__label_smoothing=label_smoothing,
            optimizer=torch.optim.Adam,
            optimizer__foreach=True,  # bit for bit the same, with fewer calls
            train_split=None,
            **kwargs,
        )
        self.l1_factor = l1_factor
        self.label_smoothing = label_smoothing
        self.ema_decay = ema_decay
        self._average: _Average | None = None
        self.generator = generator
        self.valid_rows = valid_rows

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        # skorch's own would average the losses of moving weights, in training mode
        log = [("print_log", PrintLog())] if self.verbose else []
        return [("epoch_timer", EpochTimer()), *log]

    def initialize_optimizer(self, triggered_directly: None = None) -> Self:
        """Let the next training step begin with a new optimizer."""
        self.__dict__.pop("optimizer_", None)
        return self

    def __getattr__(self, name: str) -> Any:
        # made when it is first needed: for an optimizer torch imports its compiler, which takes as
        # long as torch itself, and predicting needs neither
        if name != "optimizer_" or not self.__dict__.get("initialized_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        super().initialize_optimizer()
        return self.__dict__["optimizer_"]

    def on_batch_end(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Move the average of the weights."""
        if training and self._average is not None:
            self._average.update(self.module_)

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Any, **fit_params: Any
    ) -> None:
        """Run an epoch; training continues from the weights of the last step, not their average."""
        run = super().run_single_epoch
        if not training or self.ema_decay is None:
            return run(iterator, training, prefix, step_fn, **fit_params)
        if self._average is None:
            self._average = _Average(self.module_, self.ema_decay)
        self._average.swap(self.module_)
        try:
            run(iterator, training, prefix, step_fn, **fit_params)
        finally:  # also where the epoch is interrupted
            self._average.swap(self.module_)

    def adopt(
        self,
        *,
        lr: float,
        batch_size: int,
        l1_factor: float,
        label_smoothing: float,
        ema_decay: float | None,
        verbose: int,
    ) -> Self:
        """Continue with other values of parameters, from the present state of the optimizer."""
        self.lr, self.batch_size, self.l1_factor = lr, batch_size, l1_factor
        self.label_smoothing = self.criterion_.label_smoothing = label_smoothing
        if "optimizer_" in self.__dict__:
            for group in self.optimizer_.param_groups:
                group["lr"] = lr
        self.ema_decay = ema_decay
        if ema_decay is None:
            self._average = None
        elif self._average is not None:
            self._average.decay = ema_decay
        if verbose != self.verbose:
            self.verbose = verbose
            self.initialize_callbacks()
        return self

    def restart(self, state: dict[str, Tensor]) -> None:
        """Continue from the weights in ``state``, as if no step had been taken."""
        self.module_.load_state_dict(state)
        self.initialize_optimizer()
        self._average = None

    def get_dataset(self, X: Any, y: Any = None) -> Rows:
        """Return rows as they are, and arrays of features as rows."""
        return X if isinstance(X, Rows) else Rows(to_numpy(X), y)

    def get_iterator(self, dataset: Rows, training: bool = False) -> _Batches:
        """Return whole batches of rows, shuffled in training."""
        if not training:
            return _Batches(dataset, EVALUATION_BATCH_SIZE)
        return _Batches(
            dataset,
            self.batch_size,
            generator=self.generator,
            n_orders=len(self.module_.tails),
            join_single=self.module_.has_batch_norm(),
        )

    def n_steps(self, rows: Rows) -> int:
        """Count the steps of an epoch."""
        return rows.n_batches(self.batch_size, join_single=self.module_.has_batch_norm())

    def get_loss(self, y_pred: Tensor, y_true: Any, X: Any = None, training: bool = False) -> Any:
        """Compute the weighted mean cross-entropy; the penalty acts on the gradients."""
        y, weight = y_true
        loss = self.criterion_(y_pred, y.to(y_pred.device))
        return (loss * weight.to(y_pred.device)).mean()

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Compute the gradients of the weighted cross-entropy plus the L1 penalty.

        Each tail learns from its own part of the batch.
        """
        self._set_training(True)
        X, (y, weight) = unpack_data(batch)
        tails, total = self.module_.tails, torch.zeros((), device=self.device)
        parts = (part.chunk(len(tails)) for part in (to_tensor(X, device=self.device), y, weight))
        for tail, X, y, weight in zip(tails, *parts, strict=True):
            loss = self.get_loss(tail(X), (y, weight))
            loss.backward()  # the maps of one tail are freed before those of the next are made
            total += loss.detach()
        if not math.isfinite(total.item()):
            raise self._error("loss", total.item())
        if self.l1_factor:
            pairs = [(p.grad, p.detach()) for p in self.module_.parameters() if p.grad is not None]
            gradients, parameters = map(list, zip(*pairs, strict=True))
            # the derivative of l1_factor * |p|, for all parameters in one fused call
            signs = torch._foreach_sign(parameters)
            torch._foreach_add_(gradients, signs, alpha=self.l1_factor)
        return {"loss": total}

    def evaluation_step(self, batch: Any, training: bool = False) -> Tensor:
        """Compute the logits of a batch, in evaluation mode unless ``training``."""
        step = super().evaluation_step
        with torch.inference_mode(not training):
            if training:
                return step(batch, training=training)
            return in_halves(lambda X: step((X, None)), batch[0], torch.cat)

    def penalty(self) -> float:
        """Compute ``l1_factor`` times the L1 norm of all parameters; the mean of several tails."""
        norms = torch._foreach_norm([p.detach() for p in self.module_.parameters()], 1)
        return self.l1_factor * float(sum(norms)) / len(self.module_.tails)

    def measure(self, rows: Rows) -> tuple[float, float]:
        """Compute the weighted mean cross-entropy and accuracy on rows, in evaluation mode."""
        loss = correct = total = 0.0
        for X, (y, weight) in self.get_iterator(rows):
            logits = self.evaluation_step((X, None)).float().cpu()
            weight = weight.double()
            loss += float(
                torch.nn.functional.cross_entropy(logits, y, reduction="none") @ weight.float()
            )
            correct += float((logits.argmax(1) == y).double() @ weight)
            total += float(weight.sum())
        return loss / total, correct / total

    def on_epoch_end(
        self, net: NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        """Measure the epoch, so that skorch's callbacks find the figures in the history."""
        loss, accuracy = self.measure(dataset_train.evenly(N_MEASURED))
        self.history.record("train_loss", loss)
        self.history.record("train_loss_penalized", loss + self.penalty())
        self.history.record("train_accuracy", accuracy)
        if self.valid_rows is not None:
            loss, accuracy = self.measure(self.valid_rows)
            self.history.record("valid_loss", loss)
            self.history.record("valid_accuracy", accuracy)
        self._check_finite()

    def _check_finite(self) -> None:
        """Check what the last step may have spoiled, since no later batch would show it."""
        for name in ("train_loss", "valid_loss"):
            if not math.isfinite(self.history[-1].get(name, 0)):
                raise self._error("loss", self.history[-1, name])
        state = {k: v for k, v in self.module_.state_dict().items() if v.is_floating_point()}
        if math.isfinite(sum(torch._foreach_norm(list(state.values()), 1))):
            return
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise self._error(f"tail's {name}", "nan or infinite")

    def _error(self, what: str, value: object) -> LossError:
        return LossError(
            f"the {what} became {value} in epoch {len(self.history)}, batch "
            f"{len(self.history[-1, 'batches'])}: lower lr, or scale the features."
        )
