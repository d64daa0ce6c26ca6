"""Channel scores against torch-pruning and closed forms; what has no score is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.score.importance import score_channels
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet
from tests.compress.score.chain import by_name, chain

EXAMPLE = torch.zeros(1, 3, 32, 32)
NetMaker = Callable[..., MultiTaskNet]


@pytest.mark.parametrize(("criterion", "p"), [("l1", 1), ("l2", 2)])
@pytest.mark.parametrize("normalise", ["mean", None])
def test_magnitudes_equal_torch_pruning(criterion: Any, p: int, normalise: Any) -> None:
    import torch_pruning as tp

    model, example = chain(), torch.zeros(1, 3, 8, 8)
    ours = by_name(model, score_channels(model, find_groups(model, example), criterion, normalise=normalise), example)
    graph = tp.DependencyGraph().build_dependency(model, example)
    importance = tp.importance.GroupMagnitudeImportance(p=p, group_reduction="mean", normalizer=normalise)
    for name in ("0", "3"):
        layer = model[int(name)]
        group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels)))
        torch.testing.assert_close(ours[name].float(), importance(group))


def test_batchnorm_scores_are_gammas_and_fall_back_to_l2() -> None:
    model, example = chain(), torch.zeros(1, 3, 8, 8)
    groups = find_groups(model, example)
    with torch.no_grad():
        model[1].weight[2] *= -1
    scores = by_name(model, score_channels(model, groups, "batchnorm", normalise=None), example)
    assert torch.equal(scores["0"], model[1].weight.detach().abs().double())
    plain = by_name(model, score_channels(model, groups, "l2", normalise=None), example)
    assert torch.equal(scores["3"], plain["3"])


def test_groups_average_to_one_and_random_is_seeded(small_net: NetMaker) -> None:
    model = small_net()
    groups = find_groups(model, EXAMPLE)
    for score in score_channels(model, groups, "l2"):
        assert float(score.mean()) == pytest.approx(1)
    one, two, other = (score_channels(model, groups, "random", seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_nan_weight_is_named() -> None:
    model = chain()
    model[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="the channels of '0' have no finite score"):
        score_channels(model, find_groups(model, torch.zeros(1, 3, 8, 8)), "l1")
