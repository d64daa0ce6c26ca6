"""Runs launches in Triton's interpreter: a folder with cases in, results or refusals out. Its own process, because
TRITON_INTERPRET counts only before Triton is imported.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from slimtask.kernels.triton import checks
from slimtask.kernels.triton.tiles import Tile

INTERPRETED = checks.interpreted


def main(folder: Path) -> None:
    errors = {}
    for path in sorted(folder.glob("case_*.json")):
        out = None
        try:
            for launch in json.loads(path.read_text()):
                arrays = dict(np.load(folder / launch["arrays"]))
                out = run(launch, arrays, out)
            np.save(path.with_suffix(".npy"), out.float().numpy())
        except ValueError as error:
            errors[path.stem] = str(error)
    (folder / "errors.json").write_text(json.dumps(errors))


def run(launch: dict, arrays: dict[str, np.ndarray], out: torch.Tensor | None) -> torch.Tensor:
    arguments = {name: tensor(name, array, launch) for name, array in arrays.items()}
    if launch["overwrites"]:
        arguments["out_TNM"] = out
    if launch["tile"]:
        arguments["tile"] = Tile(**launch["tile"])
    checks.interpreted = (lambda: False) if launch["bare"] else INTERPRETED
    module = import_module(f"slimtask.kernels.triton.{launch['kernel']}")
    return getattr(module, f"launch_{launch['kernel']}")(**arguments, **launch["options"])


def tensor(name: str, array: np.ndarray, launch: dict) -> torch.Tensor:
    made = torch.from_numpy(array)
    if array.dtype.kind == "f":
        made = made.to(getattr(torch, launch["dtypes"].get(name, launch["dtype"])))
    return made.T if name in launch["transposed"] else made


if __name__ == "__main__":
    main(Path(sys.argv[1]))
