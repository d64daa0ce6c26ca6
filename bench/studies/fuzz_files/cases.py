"""One hostile case by its seed: which file is broken how, and which command is given it, or which options are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from slimtask.bench.studies.fuzz_files.base import WORDS
from slimtask.bench.studies.fuzz_files.binaries import image_damage, onnx_damage, torch_damage
from slimtask.bench.studies.fuzz_files.damage import ANY, TEXTS, Damage, header_damage, json_damage, yaml_damage

Words = tuple[str, ...]
_MODEL = WORDS[:2]
_SCORED = ("--data", "recipe.yaml", "--tasks", "depth", "--resamples", "10")
_OWN: Mapping[str, tuple[tuple[str, ...], Mapping[str, Damage], tuple[Words, ...]]] = {
    # kind: files, its own damages, commands
    "checkpoint": (("net.safetensors",), {"head": header_damage}, (
        ("inspect", "net.safetensors", *_MODEL), ("verify", "net.safetensors", *_MODEL),
        ("export", "net.safetensors", *_MODEL, "--out", "new"),
        ("compress", "net.safetensors", *_MODEL, "--keep", "0.5", "--out", "new"),
        ("evaluate", "net.safetensors", *_MODEL, *_SCORED),
    )),
    "manifest": (("bundle/manifest.json",), {"value": json_damage, **TEXTS}, (
        ("verify", "bundle"), ("inspect", "bundle"), ("run", "bundle", "image.png", "--out", "new"),
        ("bench", "bundle", "--seconds", "0.1", "--out", "new"), ("evaluate", "bundle", *_SCORED),
    )),
    "bundle": (("bundle/fused.onnx", "bundle/depth.onnx", "bundle/weights.bin"), {"graph": onnx_damage}, (
        ("verify", "bundle"), ("run", "bundle", "image.png", "--out", "new"),
        ("bench", "bundle", "--seconds", "0.1", "--out", "new"), ("evaluate", "bundle", *_SCORED),
    )),
    "recipe": (("recipe.yaml",), {"value": yaml_damage, **TEXTS}, (
        ("train", "recipe.yaml", "--out", "new"), ("evaluate", "net.safetensors", *_MODEL, *_SCORED),
    )),
    "tasks": (("tasks.yaml",), {"value": yaml_damage, **TEXTS}, (
        ("compress", *WORDS, "--keep", "0.5", "--out", "new"), ("export", *WORDS, "--out", "new"),
    )),
    "image": (("image.png",), {"image": image_damage}, (("run", "bundle", "image.png", "--out", "new"),)),
    "onnx": (("net.onnx",), {"graph": onnx_damage}, (
        ("compress", "net.onnx", "--out", "new.onnx"), ("inspect", "net.onnx"),
    )),
    "weights": (("w.pt",), {"tensors": torch_damage}, (
        ("compress", *WORDS, "--keep", "0.5", "--out", "new"), ("inspect", *WORDS[:4], *WORDS[-2:]),
    )),
}  # fmt: skip
_ODD = (
    "", " ", "-1", "0", "nan", "inf", "1e999", "9" * 400, "auto", "../..", "/", "/dev/null", "\x1b[31m", "é\u202e",
    "a\nb", "image.png", "net.safetensors", "bundle", "none", "all=1,all=2", "1x3x0x0", "1x3x99999x99999", "x:y", ":",
    "depth+sound",
)  # fmt: skip
_OPTIONS: Mapping[str, tuple[Words, tuple[str, ...]]] = {
    "compress": (
        ("compress", "net.safetensors", *_MODEL, "--out", "new"),
        ("--keep", "--flops", "--params", "--importance", "--scope", "--align", "--vote", "--latency-ms", "--on",
         "--json", "--rounds", "--sets", "--also", "--calibration", "--finetune", "--lr", "--masks",
         "--policy", "--floor"),
    ),
    "export": (
        ("export", "net.safetensors", *_MODEL, "--out", "new"),
        ("--paths", "--to", "--targets", "--precision", "--costs", "--tasks", "--json", "--weights", "--input"),
    ),
    "run": (("run", "bundle", "image.png", "--out", "new"), ("--tasks", "--backend", "--json", "--out")),
    "inspect": (("inspect", "bundle"), ("--json", "--plot", "--model", "--also", "--input")),
    "verify": (("verify", "bundle"), ("--json", "--model", "--also")),
    "evaluate": (
        ("evaluate", "bundle", *_SCORED),
        ("--split", "--tasks", "--metrics", "--against", "--paths", "--backend", "--resamples", "--seed", "--json"),
    ),
    "train": (("train", "recipe.yaml", "--out", "new"), ("--set", "--trials", "--out", "--resume")),
    "bench": (("bench", "bundle", "--seconds", "0.1"), ("--backend", "--against", "--json", "--out", "--seconds")),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command, and what is broken before it runs: a file and how, or "options"."""

    kind: str
    damage: str
    file: str
    words: Words


def case(seed: int) -> tuple[Case, Random]:
    """Return the case of a seed, and the choices that its damage has left."""
    r = Random(seed)
    if r.random() < 0.2:
        verb = r.choice(list(_OPTIONS))
        start, options = _OPTIONS[verb]
        more = [word for _ in range(r.choice((1, 1, 2))) for word in (r.choice(options), r.choice(_ODD))]
        return Case(kind="options", damage=verb, file="", words=(*start, *more)), r
    kind = r.choice(list(_OWN))
    files, own, commands = _OWN[kind]
    damages = {**ANY, **own}
    damage = r.choice(list(own)) if r.random() < 0.6 else r.choice(list(damages))
    file = r.choice(files)
    if damage == "graph" and not file.endswith(".onnx"):
        damage = "flipped"
    return Case(kind=kind, damage=damage, file=file, words=r.choice(commands)), r


def break_(made: Case, folder: Path, r: Random, outside: Path) -> None:
    """Break the case's file in ``folder``."""
    if made.file:
        damages = {**ANY, **_OWN[made.kind][1]}
        damages[made.damage](folder / made.file, r, outside)
