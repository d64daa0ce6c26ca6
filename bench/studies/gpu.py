"""`make gpu`: every GPU test and measurement of a CUDA machine in one call under nine minutes, as one JSON file."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from slimtask.bench.studies.delta import gpu as deltas
from slimtask.bench.studies.harness import parser_of, run_study, say
from slimtask.bench.studies.trunks import trunk_latency
from slimtask.bench.timing.environment import environment
from slimtask.bench.timing.isolated import Failed, Isolated, Lost, NoTime, Runner, reason
from slimtask.errors import Unsupported
from slimtask.files import write_json

TRUNKS = (("resnet18", (torch.float32,)), ("resnetd50", (torch.float32, torch.float16)))
SECONDS = 510.0  # of the nine minutes a call may take
TEST_SECONDS = 20.0  # for the tests at least
TRUNK_SECONDS = 150.0  # removal on the CPU included; what takes longer hangs


def main() -> None:
    """Measure and write the JSON; exit status 2 with one sentence without a CUDA device, 1 where some failed."""
    parser = parser_of("gpu", __doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--skip-tests", action="store_true", help="only measure")
    parser.add_argument("--delta-seconds", type=float, default=180.0, help="time for layers with sparse deltas")
    arguments = parser.parse_args()
    try:
        with Isolated(SECONDS) as runner:
            result = measure(
                runner,
                tests=not arguments.skip_tests,
                delta_seconds=arguments.delta_seconds,
                keep=lambda so_far: write_json(arguments.json, so_far),
            )
    except KeyboardInterrupt:
        say(f"gpu: interrupted; what was measured is in '{arguments.json}'.")
        raise SystemExit(130) from None
    if result["tests"] is not None and result["tests"]["exit_status"] != 0:
        say(f"gpu: the GPU tests did not pass: {result['tests']['closing_line']}")
    failed = [*result["failed"], *(result["delta"] or {"failed": []})["failed"]]
    if failed:
        say(f"gpu: {len(failed)} measurements failed, {failed[0]['name']}: {failed[0]['error']}")
    if failed or (result["tests"] or {"exit_status": 0})["exit_status"] != 0:
        raise SystemExit(1)


def measure(
    runner: Runner,
    *,
    tests: bool = True,
    delta_seconds: float = 0.0,
    keep: Callable[[dict[str, Any]], None] = lambda so_far: None,
) -> dict[str, Any]:
    """Return everything measured on the CUDA device, deltas first. Raises Unsupported where there is none.

    ``delta_seconds`` are for layers whose sub-tasks are sparse deltas; with 0 they are left out. ``runner`` calls what
    touches the GPU; what fails is named and costs nothing else. ``keep`` is called with the result so far, before the
    first part and after each.
    """
    if not torch.cuda.is_available():
        raise Unsupported("the GPU measurement", "this machine", "no CUDA device is visible", "run it on one that has")
    start = time.monotonic()
    result: dict[str, Any] = {
        "command": "make gpu",
        "environment": {**environment(), "gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda},
        "delta": None,
        "latency": [],
        "tests": None,
        "failed": [],
        "left_out": [],
    }
    keep(result)  # a file that cannot be written is found out now
    if delta_seconds > 0:
        try:
            result["delta"] = deltas.measure(delta_seconds, runner=runner)
        except Exception as error:  # the other parts do not depend on it
            result["failed"].append({"name": "deltas", "error": reason(error)})
        keep(result)
    for trunk, precisions in TRUNKS:
        try:
            result["latency"] += runner.run(trunk_latency, trunk, precisions, seconds=TRUNK_SECONDS)
        except NoTime:
            result["left_out"].append(f"latency of {trunk}")
        except (Failed, Lost) as error:
            result["failed"].append({"name": f"latency of {trunk}", "error": str(error)})
        keep(result)
    runner.rest()  # the tests get the GPU's memory
    if tests:
        result["tests"] = gpu_tests(max(TEST_SECONDS, SECONDS - (time.monotonic() - start)))
        keep(result)
    return result


def gpu_tests(timeout_seconds: float) -> dict[str, Any]:
    """Return pytest's exit status and closing line for the tests marked ``gpu``."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as late:
        last = (late.stdout or b"").decode(errors="replace").strip().splitlines()[-1:]
        return {"exit_status": None, "closing_line": f"not finished after {timeout_seconds:.0f} s: {''.join(last)}"}
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    closing = lines[-1] if lines else done.stderr.strip()[-500:]
    return {"exit_status": done.returncode, "closing_line": closing, "failed": failed}


if __name__ == "__main__":
    run_study("gpu", main)
