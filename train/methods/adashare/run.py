"""AdaShare as a whole: learn a policy, try several samples of it, keep the one with the best validation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from slimtask.checkpoint import Checkpoint, json_safe
from slimtask.compress.structures.policy import Policy
from slimtask.files import read_json, write_json
from slimtask.train import parallel
from slimtask.train.evaluate import finite
from slimtask.train.loop import Progress, TrainResult
from slimtask.train.methods.adashare.following import PolicyFollowing
from slimtask.train.methods.adashare.heatmap import save_heatmap
from slimtask.train.methods.adashare.learning import DENSE, PROBABILITIES, PolicyLearning
from slimtask.train.methods.adashare.losses import sample_rows
from slimtask.train.recipe import Recipe
from slimtask.train.stages import open_folder, part_of, run_stage

LEARNING = "learning"


def train_policy(recipe: Recipe, out: Path, *, resume: bool, progress: Progress) -> TrainResult:
    """Return the result of the best sampled policy; ``out`` gets its checkpoint, policy.json and .svg, summary.json.

    Each stage is a run of its own in ``out``: "learning", then "retrain-0" and so on, trained as plain recipes with
    ``policy.select``; with ``policy.trial`` these are short, "trial-0" and so on, and "retrain" follows with the best.
    The best is the one with the best validation metrics (``relative_score``). Raises InputError and CheckFailed as
    ``train``.
    """
    assert recipe.policy is not None
    open_folder(recipe, out, resume=resume)
    tries = recipe.policy.samples
    lengths = [recipe.train.steps, *[trial_steps(recipe)] * tries]
    lengths += [] if recipe.policy.trial is None else [retraining_steps(recipe)]
    part = part_of(progress, lengths, 0, LEARNING)
    learned = run_stage(LEARNING, learning_recipe(recipe), out, PolicyLearning, part)
    policies, results = sampled_policies(recipe, out), []
    for number, policy in enumerate(policies):
        name = f"{'retrain' if recipe.policy.trial is None else 'trial'}-{number}"
        chosen = retraining_recipe(recipe, policy, out, name, trial_steps(recipe))
        part = part_of(progress, lengths, number + 1, name)
        results.append(run_stage(name, chosen, out, PolicyFollowing, part))
    best = max(range(len(results)), key=lambda number: results[number].validation.score)
    result, steps = results[best], learned.steps + sum(result.steps for result in results)
    if recipe.policy.trial is not None:
        chosen = retraining_recipe(recipe, policies[best], out, "retrain", retraining_steps(recipe))
        part = part_of(progress, lengths, tries + 1, "retrain")
        result = run_stage("retrain", chosen, out, PolicyFollowing, part)
        steps += result.steps
    if len(policies) < tries:  # some draws were alike, so fewer steps were made than foreseen
        progress(sum(lengths), sum(lengths), f"{len(policies)} different policies tried")
    final = replace(
        result,
        checkpoint=out / "checkpoint.safetensors",
        sparsity={name: learned.sparsity[name] for name in ("temperature", "entropy_bits")},
        steps=steps,
        reached=learned.reached,
    )
    if parallel.rank() == 0:
        _assemble(recipe, out, final, results, result.checkpoint.parent, best)
    return final


def trial_steps(recipe: Recipe) -> int:
    """Return the steps after which validation chooses among the samples."""
    assert recipe.policy is not None
    length = recipe.policy.retrain if recipe.policy.trial is None else recipe.policy.trial
    return max(1, round(length * recipe.train.steps))


def retraining_steps(recipe: Recipe) -> int:
    """Return the steps of a whole retraining."""
    assert recipe.policy is not None
    return max(1, round(recipe.policy.retrain * recipe.train.steps))


def learning_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the first stage: nothing stops it early, as it alternates to its end."""
    train = recipe.train.model_copy(update={"patience": None, "task_patience": None})
    return recipe.model_copy(update={"train": train, "name": f"{recipe.name}-{LEARNING}"})


def retraining_recipe(recipe: Recipe, policy: Policy, out: Path, name: str, steps: int) -> Recipe:
    """Return the recipe of a stage that trains ``policy`` for ``steps``.

    All start from the recipe's seed, as its dense run would: what validation compares is the policies.
    """
    assert recipe.policy is not None
    changes: dict[str, Any] = {"steps": steps}
    if recipe.policy.keep_weights:
        changes["init"] = str((out / LEARNING / DENSE).resolve())
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-{name}",
            "train": recipe.train.model_copy(update=changes),
            "policy": recipe.policy.model_copy(update={"select": policy.selects}),
        }
    )


def sampled_policies(recipe: Recipe, out: Path) -> list[Policy]:
    """Return the different ones of ``samples`` policies: the most likely one, the others drawn by the recipe's seed.

    A draw decides each (task, block) pair by itself, with the learned probability.
    """
    assert recipe.policy is not None
    learned = read_json(out / LEARNING / PROBABILITIES, "probabilities")
    probabilities = torch.tensor(list(learned["execute"].values()))
    likely = [tuple(row) for row in (probabilities >= 0.5).tolist()]
    seeds = range(recipe.train.seed + 1, recipe.train.seed + recipe.policy.samples)
    different = dict.fromkeys(map(tuple, [likely, *(sample_rows(probabilities, seed) for seed in seeds)]))
    return [
        Policy(blocks=tuple(learned["blocks"]), selects=dict(zip(learned["execute"], rows, strict=True)))
        for rows in different
    ]


def _assemble(
    recipe: Recipe, out: Path, result: TrainResult, candidates: list[TrainResult], kept: Path, best: int
) -> None:
    """Write what the whole run learned from what its stages did; ``kept`` is the folder of the one that is kept."""
    checkpoint, policy = Checkpoint.load(kept / "checkpoint.safetensors"), Policy.load(kept / "policy.json")
    summary = {
        "steps": result.steps,
        "curriculum_finished": result.reached,
        "learning": read_json(out / LEARNING / "summary.json", "summary")["sparsity"],
        "validation": finite(result.validation.metrics),
        "test": finite(result.test.metrics),
        "policy": read_json(kept / "summary.json", "summary")["policy"],
        "notes": result.notes,
        "chosen": best,
        "candidates": [
            {
                "validation_loss": candidate.validation.loss,
                "validation_score": candidate.validation.score,
                "validation": finite(candidate.validation.metrics),
                **read_json(candidate.checkpoint.parent / "summary.json", "summary")["policy"],
            }
            for candidate in candidates
        ],
    }
    provenance = json_safe({"recipe": recipe.model_dump(mode="json"), **summary})
    checkpoint.with_changes(provenance=provenance).save(out / "checkpoint.safetensors")
    policy.save(out / "policy.json")
    learned = read_json(out / LEARNING / PROBABILITIES, "probabilities")
    save_heatmap(out / "policy.svg", policy, learned["execute"])
    write_json(out / "summary.json", summary)
