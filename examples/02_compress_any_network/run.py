"""Prune torchvision's ResNet-18 to half its FLOPs, print what went and the proof, export it."""

import sys
from pathlib import Path

import torch
import torchvision

from slimtask import Preprocessing, TaskSpec
from slimtask.compress import Budget, Prune, TaskOutputs, compress, cost, coverage, find_groups
from slimtask.export import export_bundle


def main(out: Path, size: int) -> None:
    """Explain the network, prune it, compare costs, export it under the name of its one task."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    example = torch.zeros(1, 3, size, size)
    print(coverage(model, find_groups(model, example)))

    done = compress(model, example, Prune(Budget(flops=0.5), by="l2", align=8))
    print(done.plan)
    print(f"certificate: {done.certificate.holds}, relative difference {done.certificate.max_rel_error:.1e}")
    before, after = cost(model, example), cost(done.model, example)
    print(f"FLOP ratio {before.flops / after.flops:.2f}, parameters {before.params:,} -> {after.params:,}")

    tasks = (TaskSpec(name="classes", kind="classification", channels=1000),)
    export_bundle(TaskOutputs(done.model, tasks), out, preprocessing=Preprocessing(height=size, width=size))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0] if arguments else "resnet18-half"), int(arguments[1]) if len(arguments) > 1 else 224)
