"""Several processes that act as one: what `torchrun` started, and sums over all of them. Alone, all of it does nothing.

The aim is that N processes with batch B compute what one computes with batch N * B: losses are divided by the number
of valid entries of the global batch (``shared_count``), and BatchNorm sees the global batch (``SharedBatchNorm``).
"""

from __future__ import annotations

import gc
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def processes() -> int:
    """Return the number of processes that train together, 1 if there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, 0 if it is alone."""
    return dist.get_rank() if processes() > 1 else 0


def summed(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all processes, without gradient; ``value`` itself if there is one."""
    if processes() == 1:
        return value.detach()
    device = torch.device("cuda") if dist.get_backend() == "nccl" else value.device  # it takes no host memory
    total = value.detach().clone().to(device)
    dist.all_reduce(total)
    return total.to(value.device)


def of_first(value: Tensor) -> Tensor:
    """Return the first process's ``value``, which has the same shape in all of them, without gradient."""
    return summed(value if rank() == 0 else torch.zeros_like(value))


def shared_count(count: Tensor) -> Tensor:
    """Return the mean of a count of entries over all processes, at least 1 in total.

    Dividing this process's sum by it, and averaging over processes as DDP does, is the mean over the global batch.
    """
    return summed(count).clamp_min(1) / processes()


def averaged(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return scalars by name, each the mean over all processes."""
    return {name: summed(value) / processes() for name, value in values.items()}


def average_gradients(module: nn.Module) -> None:
    """Average the gradients of a module that DistributedDataParallel does not wrap over all processes, in place."""
    for parameter in module.parameters():
        if processes() > 1 and parameter.grad is not None:
            parameter.grad.copy_(summed(parameter.grad) / processes())


def leave() -> None:
    """Leave the process group, if there is one: a process that ends without it may be aborted by its own threads.

    So may one in which a DistributedDataParallel is still alive; those in reference cycles are collected here.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def anywhere(flag: bool) -> bool:
    """Return whether ``flag`` is set in any process, so that all of them do the same."""
    return flag if processes() == 1 else bool(summed(torch.tensor(float(flag))))


def meet() -> None:
    """Wait until every process is here: what all have looked at, the first one may change."""
    anywhere(flag=True)


class _GlobalSum(torch.autograd.Function):
    """The sum over all processes; each one's gradient is the sum of theirs, as all losses depend on it."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return summed(value)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return summed(gradients[0])


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of the global batch [processes * batch, c, h, w].

    Like torch's SyncBatchNorm, which has no CPU implementation; names and numbers of the state are BatchNorm2d's.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised features [batch, c, h, w]."""
        if not self.training or processes() == 1:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        count = summed(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _GlobalSum.apply(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _GlobalSum.apply(centred.square().sum(dim=(0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        scaled = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.weight is not None:
            scaled = scaled * self.weight[:, None, None] + self.bias[:, None, None]
        out: Tensor = scaled.to(input.dtype)
        return out

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased, share)


def share_batchnorm_(model: nn.Module) -> nn.Module:
    """Return ``model`` with every BatchNorm2d turned into a SharedBatchNorm in place; weights and names stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm
    return model
