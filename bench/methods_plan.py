"""What the comparison of the methods trains: every method at every sparsity, from one base recipe per data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = (0.5, 0.7, 0.9)
MCP_LEVEL = 0.7  # where the penalty that spares large groups is tried too
SINGLE, DENSE, HALF, ADASHARE = "dense single-task", "dense multi-task", "dense, half the steps", "adashare"

OWN_FED = ("element", "tensor", "out-channels", "block", "hidden-units", "heads", "units")
BASE_FED = ("hidden-units", "heads", "units")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One training run: its method, the sparsity it is asked for, and what it changes in the base recipe.

    ``after`` names the method whose run of the same seed comes first: training starts from its checkpoint, or, for a
    random policy, takes its size from the learned one.
    """

    method: str
    sparsity: float = 0.0
    settings: tuple[str, ...] = ()
    after: str = ""

    @property
    def name(self) -> str:
        """Return the run's folder: method and sparsity without blanks."""
        return f"{self.method}-{round(100 * self.sparsity)}".replace(", ", "-").replace(" ", "-").replace(":", "-")


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
    on for the other half. AdaShare learns its policy on top, in as many steps again; its retraining has the budget.
    """
    half = f"train.steps={steps // 2}"
    runs = [Entry(method=DENSE), Entry(method=HALF, settings=(half,))]
    runs += [Entry(method=f"{SINGLE}: {task}", settings=(f"data.tasks=[{task}]",)) for task in tasks]
    runs.append(Entry(method=ADASHARE, settings=_section("policy", samples="1", **_short(steps))))
    runs.append(Entry(method="random policy", settings=("policy.random={seed: 1, skip: $SKIP}",), after=ADASHARE))
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
        for method in ("disparse", "magnitude"):
            settings = (half, *_masks(level, method=method, when="pretrained"))
            runs.append(Entry(method=f"{method} pretrained", sparsity=level, settings=settings, after=HALF))
        settings = (half, *_masks(level, method="disparse", when="pretrained", score="gradient"))
        runs.append(Entry(method="disparse pretrained, gradient", sparsity=level, settings=settings, after=HALF))
        settings = _masks(level, method="disparse", when="dynamic", interval="20")
        runs.append(Entry(method="disparse dynamic", sparsity=level, settings=settings))
    return runs


def _masks(level: float, **settings: str) -> tuple[str, ...]:
    return _section("masks", sparsity=f"{level}", scope="trunk", **settings)


def _short(steps: int) -> dict[str, str]:
    """Return a policy section with about twenty alternations after the warm-up, however few steps there are."""
    weights, policy = max(1, steps // 40), max(1, steps // 80)
    return {
        "alternate": f"{{weights: {weights}, policy: {policy}}}",
        "curriculum_speed": "1",
        "weights_lr": "0.01",
        "policy_lr": "0.05",
        # with the published 0.05 each, nearly every block is skipped in so short a run
        "sharing_weight": "0.02",
        "sparsity_weight": "0.002",
        "sharing_depth": "shallow",
    }


def _section(section: str, **settings: str) -> tuple[str, ...]:
    return tuple(f"{section}.{key}={value}" for key, value in settings.items())
