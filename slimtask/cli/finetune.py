"""The options of `slimtask compress` for after a cut (train on, recalibrate BatchNorm), and what that was worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.calibration import open_data
from slimtask.cli.common import Patient, console, progress_bar, table, working
from slimtask.cli.network import Network
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.checkpoint import Checkpoint
    from slimtask.train.tune import Stage, Tuner

RecalibrateOption = Annotated[
    int | None,
    typer.Option("--recalibrate", metavar="BATCHES", help="After the cut: BatchNorm statistics from training images."),
]
FinetuneOption = Annotated[
    int | None, typer.Option("--finetune", metavar="STEPS", help="After the cut: train on by the tasks' losses.")
]
DistilOption = Annotated[
    float | None,
    typer.Option(
        "--distil",
        metavar="SHARE",
        help="With --finetune: share of the loss that is the distance to the dense outputs; 1 needs no targets.",
    ),
]
RateOption = Annotated[
    float | None, typer.Option("--lr", help="With --finetune: Adam's learning rate; else the recipe's.")
]
RoundsOption = Annotated[
    int | None, typer.Option("--rounds", help="With --finetune: cut in so many rounds, STEPS of training after each.")
]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asked for after a cut."""

    recalibrate: int | None
    finetune: int | None
    distil: float | None
    lr: float | None
    rounds: int | None

    @property
    def first(self) -> str | None:
        """Return the first option that was given, None if none was."""
        return next((f"--{name}" for name, value in asdict(self).items() if value is not None), None)

    def check(self, *, budgeted: bool, measured: bool, masked: bool) -> None:
        """Raise InputError unless the options go together, with what they mend.

        That is a cut by score (``measured``: off a latency table), or masks of each task's own (``masked``).
        """
        if self.first is not None and not budgeted and not masked:
            raise InputError(
                f"{self.first} mends what a budget or a task's own mask takes, and removing zeros or what no task "
                "needs is exact; add --keep, --params, --flops, --latency-ms, or --masks with --per-task, or leave it "
                "out."
            )
        least = {"finetune": 0 if masked else 1}
        for name, most in (("recalibrate", 10**6), ("finetune", 10**9), ("rounds", 1000)):
            value = getattr(self, name)
            if value is not None and not least.get(name, 1) <= value <= most:
                raise InputError(
                    f"--{name} takes a count from {least.get(name, 1)} to {most:,}, not {str(value)[:20]}."
                )
        for name in ("distil", "lr", "rounds"):
            if getattr(self, name) is not None and self.finetune is None:
                raise InputError(f"--{name} says how to train after a cut; add --finetune STEPS.")
        if self.distil is not None and not 0 < self.distil <= 1:
            raise InputError(f"--distil takes a share of the loss above 0 and up to 1, not {self.distil:g}.")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"--lr takes a learning rate above 0, such as 0.001, not {self.lr:g}.")
        if masked and self.rounds is not None:
            raise InputError("--rounds cuts to shares of a budget, and a mask takes all at once; leave it out.")
        if measured and (self.rounds or 1) > 1:
            raise InputError(
                "--rounds cuts to shares of --keep, --params or --flops with a number for --align; counts off a "
                "measured table are chosen all at once, so leave it out."
            )

    def tuner(self, network: Network, recipe: Path | None) -> Tuner | None:
        """Return what trains after each cut, its dense network scored; None if nothing was asked for."""
        if self.first is None:
            return None
        tuner = self.tuner_of(network, recipe)
        tuner.score("dense", 0, tuner.dense)
        return tuner

    def tuner_of(self, network: Network, recipe: Path | None) -> Tuner:
        """Return the tuner of ``network`` on the data of ``recipe``, or of the recipe it was trained with."""
        from slimtask.train.tune import Tuner

        own_loss = bool(self.finetune) and (self.distil or 0) < 1
        what = "--finetune" if self.finetune is not None else "--recalibrate"
        instead = "or --distil 1, which needs images only" if own_loss else "or leave it out"
        with working("reading training data"):
            data = open_data(network.checkpoint, recipe, what, instead, targets=own_loss)
        options = asdict(self) | {"rounds": self.rounds or 1}
        return Tuner(
            network.checkpoint, data, factory=network.factory, working=working, progress_bar=progress_bar, **options
        )


def show_tuning(tuner: Tuner) -> list[dict[str, Any]]:
    """Print how good every stage was (of more than three rounds the last one's), and return all as JSON."""
    rounds = tuner.rounds
    shown = [stage for stage in tuner.stages if rounds <= 3 or stage.round in (0, rounds)]
    names = [stage.stage if rounds == 1 or not stage.round else f"{stage.stage} {stage.round}" for stage in shown]
    rows = table("Quality on the validation split", "", "better", *names)
    rows.add_row("distance to dense", "lower", *(f"{stage.distance:.4f}" for stage in shown))
    for task in tuner.data.tasks:
        scores = [stage.metrics[task.name][task.metric] for stage in shown]
        better = "higher" if task.higher_is_better else "lower"
        rows.add_row(f"{task.name} {task.metric}", better, *("-" if x is None else f"{x:.4f}" for x in scores))
    console.print(rows)
    for sentence in worse(tuner.stages, rounds):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return [asdict(stage) for stage in tuner.stages]


def worse(stages: Sequence[Stage], rounds: int) -> list[str]:
    """Return a sentence for every round whose training took the network further away, or to a worse loss."""
    sentences = []
    for before, after in pairwise(stages):
        if after.stage != "tuned":
            continue
        rises = [("distance to the outputs it learns from", before.distance, after.distance)]
        if before.loss is not None and after.loss is not None:
            rises.append(("validation loss", before.loss, after.loss))
        rose = [f"{what} rose from {old:.4g} to {new:.4g}" for what, old, new in rises if new > old]
        if rose:
            where = f" in round {after.round}" if rounds > 1 else ""
            sentences.append(
                f"tuning made it worse{where}: the {' and the '.join(rose)}; take more steps, a smaller --lr or "
                "another --distil, or leave the tuning out."
            )
    return sentences


def cut_in_rounds(tuner: Tuner, cut: Callable[..., Any]) -> Any:
    """Return ``cut(between=...)`` with the tuner between the rounds, and a sign of life on standard error meanwhile."""
    with Patient(stderr=True).status("finding what may go, removing it, proving it") as status:

        def between(checkpoint: Checkpoint, number: int) -> Checkpoint:
            status.stop()  # the training has a bar of its own
            try:
                return tuner(checkpoint, number)
            finally:
                status.start()

        return cut(between=between)


def show_training(provenance: dict[str, Any]) -> None:
    """Print how the network was trained on after its cuts, or under a task's own masks, as a checkpoint tells it."""
    steps = provenance.get("compressed")
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict):
            number = f" round {step['round']} of {step['rounds']}" if {"round", "rounds"} <= set(step) else ""
            _show_facts(f"after the cut{number}", step.get("training"))
    _show_facts("under masks of its own", provenance.get("training"))


def _show_facts(when: str, told: object) -> None:
    if isinstance(told, dict):
        facts = {name: value for name, value in told.items() if name != "data"}
        words = ", ".join(f"{name} {x:.4g}" if isinstance(x, float) else f"{name} {x}" for name, x in facts.items())
        console.print(f"trained on {when}: {words}", markup=False, highlight=False)
