"""The wheel as a stranger gets it: built, installed apart from the source tree, and used from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".venv", ".git", "runs", "build", "dist", "tests", "*.egg-info", "__pycache__", ".*_cache"
)
TINY = (
    *("data.train=8", "data.val=4", "data.test=4", "data.height=32", "data.width=48", "data.cache=false"),
    *("train.steps=6", "train.batch=4", "train.eval_every=3", "sparsity.target=0.3", "sparsity.min_keep=0.1"),
)
CHAIN = [
    ["train", "scenes/group_sparsity", *[word for one in TINY for word in ("--set", one)], "--out", "run"],
    ["compress", "run/checkpoint.safetensors", "--flops", "0.5", "--out", "small.safetensors"],
    ["export", "small.safetensors", "--out", "bundle"],
    ["verify", "bundle"],
    ["inspect", "bundle"],
]
VERBS = """
import sys
from slimtask.cli.app import main
import slimtask
assert slimtask.__file__.startswith({home!r}), slimtask.__file__
for words in {calls!r}:
    sys.argv = ["slimtask", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise SystemExit(f"{{words}}: {{end.code}}")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed to."""
    pytest.importorskip("setuptools", reason="setuptools is not installed, and a wheel is built with it")
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, place / "source", symlinks=True, ignore=LEFT_OUT)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", str(place / "source"), "--no-deps", "--no-build-isolation", "-w", str(place)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    shutil.rmtree(place / "source")
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(place / "home"), str(wheel)], check=True)
    return place / "home"


def run(home: Path, code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_holds_every_module_and_recipe_but_the_studies(home: Path) -> None:
    held = {path.relative_to(home / "slimtask") for path in (home / "slimtask").rglob("*") if path.is_file()}
    for stage in ("bench", "compress", "export", "kernels", "recipes", "slimtask", "train"):
        files = [path for ending in ("*.py", "*.pyi", "*.yaml", "*.html") for path in (ROOT / stage).rglob(ending)]
        product = {path.relative_to(ROOT / "slimtask" if stage == "slimtask" else ROOT) for path in files}
        wanted = {path for path in product if path.parts[:2] != ("bench", "studies")}
        assert wanted
        assert wanted <= held
    assert not {path for path in held if path.parts[:2] == ("bench", "studies")}
    assert not (home / "tests").exists()


def test_every_verb_says_what_it_does(home: Path, tmp_path: Path) -> None:
    code = "from slimtask.cli.app import app\nprint(*(each.name for each in app.registered_commands))"
    verbs = run(home, code, tmp_path).split()
    assert {"train", "compress", "export", "bench", "sweep", "doctor"} <= set(verbs)
    said = run(home, VERBS.format(home=str(home), calls=[[verb, "--help"] for verb in verbs]), tmp_path)
    assert said.count("Usage:") == len(verbs)


def test_a_small_chain_runs_from_another_folder(home: Path, tmp_path: Path) -> None:
    run(home, VERBS.format(home=str(home), calls=CHAIN), tmp_path)
    assert sorted(path.name for path in (tmp_path / "bundle").glob("*.onnx"))
