"""AdaShare as a whole: learn a policy, retrain several samples of it, keep the one with the best validation loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from slimtask.checkpoint import Checkpoint, json_safe
from slimtask.compress.policy import Policy
from slimtask.files import read_json, write_json
from slimtask.train import parallel
from slimtask.train.loop import Progress, TrainResult, finite
from slimtask.train.methods.adashare.following import facts
from slimtask.train.methods.adashare.heatmap import save_heatmap
from slimtask.train.methods.adashare.learning import DENSE, PROBABILITIES
from slimtask.train.methods.adashare.losses import sample_rows
from slimtask.train.recipe import Recipe
from slimtask.train.stages import open_folder, part_of, run_stage

LEARNING = "learning"


def train_policy(recipe: Recipe, out: Path, *, resume: bool, progress: Progress) -> TrainResult:
    """Return the result of the best retrained policy; ``out`` gets its checkpoint, policy.json and .svg, summary.json.

    Each stage is a run of its own in ``out``: "learning", then "retrain-0" and so on, trained as plain recipes with
    ``policy.select``. The best is the one with the lowest validation loss. Raises InputError and CheckFailed as
    ``train``.
    """
    assert recipe.policy is not None
    open_folder(recipe, out, resume=resume)
    steps, again = recipe.train.steps, retraining_steps(recipe)
    lengths = [steps, *[again] * recipe.policy.samples]
    learned = run_stage(LEARNING, learning_recipe(recipe), out, part_of(progress, lengths, 0, LEARNING))
    results = []
    for number, policy in enumerate(sampled_policies(recipe, out)):
        name = f"retrain-{number}"
        chosen = retraining_recipe(recipe, number, policy, out)
        results.append(run_stage(name, chosen, out, part_of(progress, lengths, number + 1, name)))
    best = min(range(len(results)), key=lambda number: results[number].validation.loss)
    if parallel.rank() == 0:
        _assemble(recipe, out, results, best, settled=learned.reached)
    result = results[best]
    return TrainResult(
        checkpoint=out / "checkpoint.safetensors",
        validation=result.validation,
        test=result.test,
        sparsity={},
        steps=learned.steps + sum(result.steps for result in results),
        reached=learned.reached,
    )


def retraining_steps(recipe: Recipe) -> int:
    """Return the steps of one retraining."""
    assert recipe.policy is not None
    return max(1, round(recipe.policy.retrain * recipe.train.steps))


def learning_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the first stage: nothing stops it early, as it alternates to its end."""
    train = recipe.train.model_copy(update={"patience": None, "task_patience": None})
    return recipe.model_copy(update={"train": train, "name": f"{recipe.name}-{LEARNING}"})


def retraining_recipe(recipe: Recipe, number: int, policy: Policy, out: Path) -> Recipe:
    """Return the recipe of the ``number``-th retraining; its seed is the next after those before."""
    assert recipe.policy is not None
    changes: dict[str, Any] = {"seed": recipe.train.seed + 1 + number, "steps": retraining_steps(recipe)}
    if recipe.policy.keep_weights:
        changes["init"] = str((out / LEARNING / DENSE).resolve())
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-retrain-{number}",
            "train": recipe.train.model_copy(update=changes),
            "policy": recipe.policy.model_copy(update={"select": policy.selects}),
        }
    )


def sampled_policies(recipe: Recipe, out: Path) -> list[Policy]:
    """Return the policies to retrain: Bernoulli samples of the learned probabilities, by the recipe's seed."""
    assert recipe.policy is not None
    learned = read_json(out / LEARNING / PROBABILITIES, "probabilities")
    probabilities = torch.tensor(list(learned["execute"].values()))
    policies = []
    for number in range(recipe.policy.samples):
        rows = sample_rows(probabilities, recipe.train.seed + 1 + number)
        selects = dict(zip(learned["execute"], rows, strict=True))
        policies.append(Policy(blocks=tuple(learned["blocks"]), selects=selects))
    return policies


def _assemble(recipe: Recipe, out: Path, results: list[TrainResult], best: int, *, settled: bool) -> None:
    """Write what the whole run learned from what its stages did."""
    checkpoint = Checkpoint.load(results[best].checkpoint)
    policies = [Policy.load(result.checkpoint.parent / "policy.json") for result in results]
    summary = {
        "steps": recipe.train.steps + sum(result.steps for result in results),
        "curriculum_finished": settled,
        "validation": finite(results[best].validation.metrics),
        "test": finite(results[best].test.metrics),
        "policy": facts(policies[best]),
        "chosen": best,
        "candidates": [
            {
                "validation_loss": result.validation.loss,
                "validation": finite(result.validation.metrics),
                **facts(policy),
            }
            for result, policy in zip(results, policies, strict=True)
        ],
    }
    provenance = json_safe({"recipe": recipe.model_dump(mode="json"), **summary})
    checkpoint.with_changes(provenance=provenance).save(out / "checkpoint.safetensors")
    policies[best].save(out / "policy.json")
    learned = read_json(out / LEARNING / PROBABILITIES, "probabilities")
    save_heatmap(out / "policy.svg", policies[best], learned["execute"])
    write_json(out / "summary.json", summary)
