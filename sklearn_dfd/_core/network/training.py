"""The skorch net that trains the tail: whole batches, the L1 penalty, measured epochs.

Knows torch and skorch, and nothing of scikit-learn's conventions.
"""

import math
from contextlib import contextmanager

import torch
from skorch import NeuralNet
from skorch.callbacks import EpochTimer, PrintLog
from skorch.dataset import unpack_data
from skorch.utils import to_numpy, to_tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from sklearn_dfd._core.network.rows import Rows
from sklearn_dfd._core.runtime.devices import in_halves
from sklearn_dfd.exceptions import LossError

# by measurement: maps of larger batches leave the cache, and their memory goes back and forth
EVALUATION_BATCH_SIZE = 64


class _Batches:
    """An iterator over ``Rows`` that starts anew each epoch."""

    def __init__(self, rows, batch_size, **options):
        self.rows, self.batch_size, self.options = rows, batch_size, options

    def __iter__(self):
        return self.rows.batches(self.batch_size, **self.options)


class _Average:
    """The exponential moving average of a module's weights and statistics over its steps."""

    def __init__(self, module, decay):
        self.decay = decay
        self.model = AveragedModel(module, multi_avg_fn=self._move, use_buffers=True)

    def update(self, module):
        """Move towards the weights of another step."""
        self.model.update_parameters(module)

    def swap(self, module):
        """Exchange the tensors' contents with those of the module, whose own they stay."""
        averages = self.model.module.state_dict(keep_vars=True)
        for name, tensor in module.state_dict(keep_vars=True).items():
            tensor.data, averages[name].data = averages[name].data, tensor.data

    @torch.no_grad()
    def _move(self, averages, weights, n_averaged):
        if not torch.is_floating_point(averages[0]):  # counters of batches
            torch._foreach_copy_(averages, weights)
            return
        n = float(n_averaged)
        # the first steps, far from where it goes, soon weigh little
        decay = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averages, weights, 1 - decay)


class TailNet(NeuralNet):
    """Trains a tail on rows of features.

    Parameters
    ----------
    module : Tail or Tails
        Initialised; it is trained in place.
    l1_factor : float
        Weight of the L1 norm of all the module's parameters in what is minimised.
    label_smoothing : float
        Share of each label that is spread over all classes, in what is minimised.
    ema_decay : float or None
        Of an average of the weights, which ``module_`` holds whenever no epoch is under way.
    generator : torch.Generator
        Of the order of the rows.
    valid_rows : Rows or None
        Measured after each epoch where given.
    **kwargs
        skorch's.
    """

    def __init__(
        self,
        module,
        *,
        l1_factor=0.0,
        label_smoothing=0.0,
        ema_decay=None,
        generator=None,
        valid_rows=None,
        **kwargs,
    ):
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
        self._average = None
        self._schedule = None
        self.generator = generator
        self.valid_rows = valid_rows

    @property
    def _default_callbacks(self):
        # skorch's own would average the losses of moving weights, in training mode
        log = [("print_log", PrintLog())] if self.verbose else []
        return [("epoch_timer", EpochTimer()), *log]

    @contextmanager
    def one_cycle(self, n_epochs, rows):
        """Let the learning rate rise and fall while ``rows`` are trained on for ``n_epochs``."""
        n_steps = n_epochs * rows.n_batches(self.batch_size, **self._batching())
        self._schedule = OneCycleLR(
            self.optimizer_, self.lr, total_steps=n_steps, cycle_momentum=False
        )
        try:
            yield
        finally:
            self._schedule = None
            for group in self.optimizer_.param_groups:
                group["lr"] = self.lr

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        """Move the average of the weights, and the learning rate where it is not constant."""
        if training and self._average is not None:
            self._average.update(self.module_)
        if training and self._schedule is not None:
            self._schedule.step()

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Run an epoch, in training with the weights of the last step in place of their average."""
        run = super().run_single_epoch
        if not training or self.ema_decay is None:
            return run(iterator, training, prefix, step_fn, **fit_params)
        if self._average is None:
            self._average = _Average(self.module_, self.ema_decay)
        self._average.swap(self.module_)
        try:
            run(iterator, training, prefix, step_fn, **fit_params)
        finally:  # also where somebody interrupts
            self._average.swap(self.module_)

    def restart(self, state):
        """Go on from the weights ``state``, as if no step had been taken."""
        self.module_.load_state_dict(state)
        self.initialize_optimizer()
        self._average = None

    def get_dataset(self, X, y=None):
        """Rows as they are; arrays of features become rows."""
        return X if isinstance(X, Rows) else Rows(to_numpy(X), y)

    def get_iterator(self, dataset, training=False):
        """Whole batches of rows, shuffled in training."""
        if not training:
            return _Batches(dataset, EVALUATION_BATCH_SIZE)
        return _Batches(
            dataset,
            self.batch_size,
            generator=self.generator,
            n_orders=len(self.module_.members()),
            **self._batching(),
        )

    def _batching(self):
        return {"join_single": self.module_.has_batch_norm()}

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Mean cross-entropy, weighted; the penalty acts on the gradients."""
        y, weight = y_true
        loss = self.criterion_(y_pred, y.to(y_pred.device))
        return (loss * weight.to(y_pred.device)).mean()

    def train_step_single(self, batch, **fit_params):
        """Gradients of the weighted cross-entropy plus ``l1_factor`` times the L1 norm.

        Of several tails each learns from a part of the batch of its own.
        """
        self._set_training(True)
        X, (y, weight) = unpack_data(batch)
        tails, total = self.module_.members(), torch.zeros((), device=self.device)
        parts = (part.chunk(len(tails)) for part in (to_tensor(X, device=self.device), y, weight))
        for tail, X, y, weight in zip(tails, *parts, strict=True):
            loss = self.get_loss(tail(X), (y, weight))
            loss.backward()  # the maps of one are given up before the next
            total += loss.detach()
        if not math.isfinite(total.item()):
            raise self._error("loss", total.item())
        if self.l1_factor:
            parameters = [p for p in self.module_.parameters() if p.grad is not None]
            # the derivative of l1_factor * |p|, for all parameters in one fused call
            torch._foreach_add_(
                [p.grad for p in parameters],
                torch._foreach_sign([p.detach() for p in parameters]),
                alpha=self.l1_factor,
            )
        return {"loss": total}

    def evaluation_step(self, batch, training=False):
        """Logits of a batch, in evaluation mode unless ``training``."""
        step = super().evaluation_step
        with torch.inference_mode(not training):
            if training:
                return step(batch, training=training)
            return in_halves(lambda X: step((X, None)), batch[0], torch.cat)

    def penalty(self):
        """``l1_factor`` times the L1 norm of all parameters, of several tails their mean."""
        norms = torch._foreach_norm([p.detach() for p in self.module_.parameters()], 1)
        return self.l1_factor * float(sum(norms)) / len(self.module_.members())

    def measure(self, rows):
        """Weighted mean cross-entropy and accuracy on ``rows``, in evaluation mode."""
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

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """Measure the epoch: skorch's callbacks find the figures in the history."""
        loss, accuracy = self.measure(dataset_train)
        self.history.record("train_loss", loss)
        self.history.record("train_loss_penalized", loss + self.penalty())
        self.history.record("train_accuracy", accuracy)
        if self.valid_rows is not None:
            loss, accuracy = self.measure(self.valid_rows)
            self.history.record("valid_loss", loss)
            self.history.record("valid_accuracy", accuracy)
        self._check_finite()

    def _check_finite(self):
        """Find what the last step spoiled, since no batch comes after it to tell."""
        for name in ("train_loss", "valid_loss"):
            if not math.isfinite(self.history[-1].get(name, 0)):
                raise self._error("loss", self.history[-1, name])
        state = {k: v for k, v in self.module_.state_dict().items() if v.is_floating_point()}
        if math.isfinite(sum(torch._foreach_norm(list(state.values()), 1))):
            return
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise self._error(f"tail's {name}", "nan or infinite")

    def _error(self, what, value):
        return LossError(
            f"the {what} became {value} in epoch {len(self.history)}, batch "
            f"{len(self.history[-1, 'batches'])}: lower lr, or scale the features."
        )
