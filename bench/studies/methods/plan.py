"""What the comparison of the methods trains: every method at every sparsity, from one base recipe per data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = (0.5, 0.7, 0.9)
REGIME_LEVELS = (0.7, 0.9)
MCP_LEVEL = 0.7  # where the penalty that spares large groups is tried too
SINGLE, DENSE, HALF, ADASHARE = "dense single-task", "dense multi-task", "dense, half the steps", "adashare"
RANDOM, DRAWS = "random policy", 8

OWN_FED = ("element", "tensor", "out-channels", "block", "hidden-units", "heads", "units")
BASE_FED = ("hidden-units", "heads", "units")


_LEARNING = {
    "alternate": "{weights: 5, policy: 5}",
    "curriculum_speed": "3",
    "temperature_decay": "0.955",
    "weights_lr": "0.01",
    "policy_lr": "0.1",
    "sharing_weight": "0.05",
    "sparsity_weight": "0.01",
    "sparsity_form": "execute",
    "sharing_depth": "shallow",
    "samples": "5",
    "trial": "0.125",
    "retrain": "0.5",
}
"""The policy section of recipes/scenes/adashare.yaml, for a learning of twice the budget."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One training run: its method, the sparsity it is asked for, and what it changes in the base recipe.

    ``after`` names the method whose run of the same seed comes first: training starts from its checkpoint, or, for a
    random policy, takes its cost from the learned one. ``draw`` numbers runs of one method that differ by chance.
    """

    method: str
    sparsity: float = 0.0
    settings: tuple[str, ...] = ()
    after: str = ""
    draw: int = 0

    @property
    def name(self) -> str:
        """Return the run's folder: method, sparsity and draw without blanks."""
        draw = f"-{self.draw}" if self.draw else ""
        text = f"{self.method}-{round(100 * self.sparsity)}{draw}"
        return text.replace(", ", "-").replace(" ", "-").replace(":", "-")

    @property
    def of_policies(self) -> bool:
        """Return whether the run learns a policy, or draws one."""
        return self.method in (ADASHARE, RANDOM)


def delta_entries(tasks: Sequence[str], base: str, density: float) -> list[Entry]:
    """Return the runs of one seed that compare what a delta may consist of, at equal density, own-fed and base-fed.

    All deltas of a seed change one base network, the single-task network of the base task.
    """
    dense = "delta=null"
    runs = [Entry(method=f"{SINGLE}: {task}", settings=(dense, f"data.tasks=[{task}]")) for task in tasks]
    runs.append(Entry(method=DENSE, settings=(dense,)))
    for feed, kinds in (("own", OWN_FED), ("base", BASE_FED)):
        for kind in kinds:
            settings = (f"delta.gates.kind={kind}", f"delta.feed={feed}", f"delta.gates.density={density}")
            runs.append(
                Entry(
                    method=f"delta, {kind}, {feed}-fed",
                    sparsity=1 - density,
                    settings=settings,
                    after=f"{SINGLE}: {base}",
                )
            )
    return runs


def entries(tasks: Sequence[str], steps: int, levels: Sequence[float] = LEVELS) -> list[Entry]:
    """Return all runs of one seed; those that others come after are first.

    The budget is ``steps`` for every run. What starts from a trained network starts from one of half the steps and goes
    on for the other half. AdaShare learns its policy and tries its samples on top; its retraining has the budget.
    """
    half = f"train.steps={steps // 2}"
    runs = [Entry(method=DENSE), Entry(method=HALF, settings=(half,))]
    runs += [Entry(method=f"{SINGLE}: {task}", settings=(f"data.tasks=[{task}]",)) for task in tasks]
    runs.append(Entry(method=ADASHARE, settings=(f"train.steps={2 * steps}", *_section("policy", **_LEARNING))))
    runs += [
        Entry(method=RANDOM, settings=(f"policy.random={{seed: {draw}, trunks: $TRUNKS}}",), after=ADASHARE, draw=draw)
        for draw in range(1, DRAWS + 1)
    ]
    for level in levels:
        for groups in ("coupled", "input-channel"):
            settings = _section("sparsity", groups=groups, target=f"{level}", min_keep="0.02")
            runs.append(Entry(method=f"group sparsity, {groups}", sparsity=level, settings=settings))
            if level == MCP_LEVEL:
                settings = (*settings, "sparsity.penalty=mcp")
                runs.append(Entry(method=f"group sparsity, {groups}, mcp", sparsity=level, settings=settings))
        for method in ("disparse", "snip", "random"):
            settings = _masks(level, method=method, when="static", batches="20")
            runs.append(Entry(method=f"{method} static", sparsity=level, settings=settings))
        settings = (half, *_masks(level, method="magnitude", when="pretrained"))
        runs.append(Entry(method="magnitude pretrained", sparsity=level, settings=settings, after=HALF))
        settings = (half, *_masks(level, method="disparse", when="pretrained", score="gradient"))
        runs.append(Entry(method="disparse pretrained, gradient", sparsity=level, settings=settings, after=HALF))
        for method in ("disparse", "rigl"):
            settings = _masks(level, method=method, when="dynamic", interval="20")
            runs.append(Entry(method=f"{method} dynamic", sparsity=level, settings=settings))
    return runs


def of_regime(runs: Sequence[Entry]) -> list[Entry]:
    """Return those of the ``entries`` that are trained in a further regime, of few images or many steps too."""
    return [
        run
        for run in runs
        if run.method == DENSE
        or run.method.startswith(SINGLE)
        or (run.sparsity in REGIME_LEVELS and run.method in ("group sparsity, coupled", "disparse static"))
        or (run.sparsity, run.method) == (max(REGIME_LEVELS), "random static")
    ]


def _masks(level: float, **settings: str) -> tuple[str, ...]:
    return _section("masks", sparsity=f"{level}", scope="trunk", **settings)


def _section(section: str, **settings: str) -> tuple[str, ...]:
    return tuple(f"{section}.{key}={value}" for key, value in settings.items())
