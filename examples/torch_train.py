"""Training in the tools that people use, with fastdrop's dropout.

    python examples/torch_train.py                    # all, a few minutes
    python examples/torch_train.py bert lstm          # some
    python examples/torch_train.py --quick            # a look

Each recipe is a few lines on top of what the tool does anyway. Needs PyTorch and the libraries of
the models and tools; a model whose library is missing is left out, and named.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

os.environ.setdefault("TQDM_DISABLE", "1")

try:
    import fastdrop as fd
    import fastdrop.torch as ft
    import torch
    from torch_tasks import TASKS, Batch, Task
except ImportError as error:
    raise SystemExit(f"error: this example needs PyTorch ({error})") from None

Losses = list[float]
Recipe = Callable[[Task, Any, int], Losses]
"""Trains a task's model for a number of epochs; returns the losses of all steps."""


def step_of(model: Any, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Train on a batch; return the loss."""
    loss = model(**batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def by_hand(task: Task, model: Any, epochs: int) -> Losses:
    """Train in a loop of one's own; the library's random numbers become fastdrop's as well."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    with ft.installed(random=True):
        return [step_of(model, optimizer, batch) for batch in task.batches(task.size, epochs)]


def by_trainer(task: Task, model: Any, epochs: int) -> Losses:
    """Train with the Trainer of transformers."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Dropout(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """fastdrop's dropout while the Trainer trains, with masks that depend on the step alone."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ft.install()

        def on_step_begin(self, args: Any, state: Any, _: Any, model: Any, **__: Any) -> None:
            key = fd.Key(args.seed).fold_in(state.global_step)
            ft.set_keys(model, key, numbered=True)

        def on_train_end(self, *_: Any, model: Any, **__: Any) -> None:
            ft.set_keys(model, None)
            ft.uninstall()

    data = task.data()
    rows = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    with TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=task.size,
            learning_rate=1e-3, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
            disable_tqdm=True, log_level="error",
        )  # fmt: skip
        trainer = Trainer(model, settings, train_dataset=rows, callbacks=[Dropout()])
        with quiet():
            trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def by_accelerate(task: Task, model: Any, epochs: int) -> Losses:
    """Train in a loop with Accelerate."""
    from accelerate import Accelerator

    ft.install()  # in each process; with several, see FASTDROP_TORCH_INSTALL
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model, optimizer = accelerator.prepare(model, optimizer)
    losses = []
    for batch in task.batches(task.size, epochs):
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    ft.uninstall()
    return losses


def by_lightning(task: Task, model: Any, epochs: int) -> Losses:
    """Train with Lightning."""
    import lightning

    class Dropout(lightning.Callback):
        """fastdrop's dropout while Lightning trains, with masks that depend on the step alone."""

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            ft.install()

        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            ft.set_keys(module, fd.Key(0).fold_in(trainer.global_step), numbered=True)

        def on_fit_end(self, trainer: Any, module: Any) -> None:
            ft.set_keys(module, None)
            ft.uninstall()

    losses: Losses = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Batch) -> Any:
            loss = self.model(**batch)["loss"]
            losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 2e-3)

    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[Dropout()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with quiet():
        batches: Any = list(task.batches(task.size, epochs))
        trainer.fit(Module(), torch.utils.data.DataLoader(batches, batch_size=None))
    return losses


def by_skorch(task: Task, model: Any, epochs: int) -> Losses:
    """Search for p with scikit-learn, in two processes that install by themselves."""
    from sklearn.model_selection import GridSearchCV
    from skorch import NeuralNetClassifier
    from torch_tasks import Tabular

    data = task.data()
    x, labels = data["x"].numpy(), data["labels"].numpy()
    net = NeuralNetClassifier(
        Tabular, module__p=task.p, criterion=torch.nn.CrossEntropyLoss, max_epochs=epochs, lr=1e-3,
        optimizer=torch.optim.AdamW, batch_size=task.size, train_split=None, verbose=0,
    )  # fmt: skip
    os.environ["FASTDROP_TORCH_INSTALL"] = "1"  # before the workers start
    try:
        search = GridSearchCV(net, {"module__p": [0.1, 0.3]}, n_jobs=2, cv=2, refit=False)
        search.fit(x, labels)
    finally:
        del os.environ["FASTDROP_TORCH_INSTALL"]
    net.set_params(**search.best_params_)
    with ft.installed():
        net.fit(x, labels)
    model.load_state_dict({f"model.{name}": one for name, one in net.module_.state_dict().items()})
    accuracy = search.best_score_
    print(f"  {search.best_params_}, cross-validated accuracy {accuracy:.2f}")
    return [float(loss) for loss in net.history[:, "train_loss"]]


RECIPES: dict[str, tuple[str, Recipe]] = {
    "bert": ("transformers.Trainer", by_trainer),
    "bert-fastdrop": ("transformers.Trainer", by_trainer),
    "vit": ("accelerate", by_accelerate),
    "sentences": ("a loop", by_hand),
    "lstm": ("lightning", by_lightning),
    "ft-transformer": ("skorch, GridSearchCV(n_jobs=2)", by_skorch),
    "gnn": ("a loop", by_hand),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what tools print and warn of."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        before, sys.stdout = sys.stdout, nowhere
        try:
            yield
        finally:
            sys.stdout = before


def uncertainty(task: Task, model: Any, samples: int) -> str:
    """Return how uncertain a classifier is where it is right, and where it is wrong."""
    batch = next(task.batches(task.size, seed=1) if task.size else task.batches(0))
    drops = [one for one in model.modules() if isinstance(one, torch.nn.Dropout) and one.p > 0.0]
    inputs = {name: x for name, x in batch.items() if name != "labels"}

    def probabilities(labels: Any) -> Any:
        return model(labels=labels, **inputs)["logits"].softmax(1).detach()

    samples_of = fd.MonteCarlo(probabilities, drops, rng=0).samples(batch["labels"], samples)
    doubt = fd.monte_carlo.predictive_entropy(np.asarray(samples_of))
    right = np.asarray(samples_of).mean(0).argmax(1) == batch["labels"].numpy()
    means = [f"{doubt[one].mean():.2f}" if one.any() else "-" for one in (right, ~right)]
    return f"entropy of {samples} thinned networks: {means[0]} where right, {means[1]} where wrong"


def main() -> None:
    """Train, and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="models; all by default")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the data")
    parser.add_argument("--quick", action="store_true", help="few steps, to see it work")
    options = parser.parse_args()
    logging_off()
    for name in options.names or RECIPES:
        task, (tool, recipe) = TASKS[name], RECIPES[name]
        if options.quick:
            task = task._replace(data=partial(few, task))
        try:
            torch.manual_seed(0)
            model = task.build(task.p)
            print(f"{name}: {task.versions}, by {tool}")
            found = ft.report(model).found
            losses = recipe(task, model, 2 if options.quick else options.epochs)
        except ImportError as error:
            print(f"{name}: left out ({error})")
            continue
        part = max(1, len(losses) // 4)
        print(f"  {len(losses)} losses, {np.mean(losses[:part]):.2f} in the first quarter, "
              f"{np.mean(losses[-part:]):.2f} in the last; {len(found)} dropouts")  # fmt: skip
        if name == "vit":
            print("  " + uncertainty(task, model.eval(), 10 if options.quick else 100))
        assert not ft.is_installed()


def few(task: Task) -> Batch:
    """Return enough data for four batches."""
    data = task.data()
    if not task.size:
        return data
    step = len(next(iter(data.values()))) // (4 * task.size)
    return {name: x[:: max(1, step)][: 4 * task.size] for name, x in data.items()}


def logging_off() -> None:
    """Silence the libraries."""
    import logging

    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    main()
