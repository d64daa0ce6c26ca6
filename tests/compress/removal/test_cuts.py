"""Single modules cut: their tensors by plain indexing, the sizes that they repeat, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.compress.removal.cuts import (
    LayerCut,
    TensorCut,
    check_layer,
    check_tensor,
    cut_layer_,
    refresh_sizes_,
    retie_,
    tied_tensors,
)
from slimtask.errors import InputError


def cut(before: tuple[int, int], outputs: tuple[int, ...] | None, inputs: tuple[int, ...] | None) -> LayerCut:
    return LayerCut(module="m", outputs_before=before[0], inputs_before=before[1], outputs=outputs, inputs=inputs)


@pytest.mark.parametrize("kind", ["linear", "conv", "transposed"])
def test_weights_are_those_of_the_kept_indices(kind: str) -> None:
    make = {"linear": lambda: nn.Linear(4, 5), "conv": lambda: nn.Conv2d(4, 5, 3)}
    module = make.get(kind, lambda: nn.ConvTranspose2d(4, 5, 3))()
    weight, bias = module.weight.detach().clone(), module.bias.detach().clone()
    cut_layer_(module, cut((5, 4), (0, 3), (1, 2, 3)))
    first, second = ((1, 2, 3), (0, 3)) if kind == "transposed" else ((0, 3), (1, 2, 3))
    assert torch.equal(module.weight, weight[list(first)][:, list(second)])
    assert torch.equal(module.bias, bias[[0, 3]])
    sizes = (module.out_features, module.in_features) if kind == "linear" else (module.out_channels, module.in_channels)
    assert sizes == (2, 3)


def test_a_grouped_convolution_loses_whole_groups() -> None:
    module = nn.Conv2d(6, 9, 1, groups=3)
    weight = module.weight.detach().clone()
    cut_layer_(module, cut((9, 6), (3, 4, 5), None))
    assert (module.groups, module.in_channels, module.out_channels) == (1, 2, 3)
    assert torch.equal(module.weight, weight[3:6])
    with pytest.raises(InputError, match="'m' is a grouped convolution, cut it by whole groups"):
        check_layer(cut((9, 6), (3, 4), None), nn.Conv2d(6, 9, 1, groups=3))


@pytest.mark.parametrize("module", [nn.BatchNorm2d(6), nn.GroupNorm(3, 6), nn.GroupNorm(1, 6), nn.LayerNorm(6)])
def test_a_norm_keeps_the_numbers_of_its_channels(module: nn.Module) -> None:
    nn.init.normal_(module.weight)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items() if tensor.ndim}
    cut_layer_(module, cut((6, 6), (2, 3), None))
    after = module.state_dict()
    assert all(torch.equal(after[name], tensor[2:4]) for name, tensor in before.items())
    assert module.eval()(torch.randn(2, 2, 2, 2)).shape == (2, 2, 2, 2)


def test_a_bias_that_constants_were_folded_into_is_gained() -> None:
    module = nn.Linear(3, 4, bias=False)
    cut_layer_(module, cut((4, 3), (1, 2), None).model_copy(update={"adds_bias": True}))
    assert module.bias.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("layer", "module", "words"),
    [
        (cut((5, 4), None, None), None, "no layer 'm' that can be cut"),
        (cut((5, 4), None, None), nn.ReLU(), "no layer 'm' that can be cut"),
        (cut((5, 4), None, None), nn.Linear(4, 6), "'m' has 6 outputs and 4 inputs, the plan was made for 5 and 4"),
        (cut((6, 4), (), None), nn.Linear(4, 6), "must keep rising channels within 0..5"),
        (cut((6, 4), (2, 1), None), nn.Linear(4, 6), "must keep rising channels within 0..5"),
        (cut((6, 4), None, (0, 4)), nn.Linear(4, 6), "must keep rising channels within 0..3"),
    ],
)
def test_a_cut_that_does_not_fit_is_refused(layer: LayerCut, module: nn.Module | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_layer(layer, module)


def test_a_cut_of_a_bare_tensor_is_checked() -> None:
    token = {"token": torch.zeros(1, 4)}
    check_tensor(TensorCut(tensor="token", axis=1, before=4, kept=(0, 2)), token)
    for name, axis, found in (("token", 0, r"\[1, 4\]"), ("token", 2, r"\[1, 4\]"), ("other", 1, "none of that name")):
        with pytest.raises(InputError, match=f"the network has {found}"):
            check_tensor(TensorCut(tensor=name, axis=axis, before=4, kept=(0,)), token)


def test_ties_come_back_with_the_sizes_that_follow() -> None:
    model = nn.ModuleList([nn.Embedding(7, 6), nn.Linear(6, 7, bias=False)])
    model[1].weight = model[0].weight
    held = tied_tensors(model)
    assert [len(holders) for holders in held.values()] == [2]
    cut_layer_(model[1], cut((7, 6), None, (0, 1, 5)))
    retie_(held)
    assert model[0].weight is model[1].weight
    assert (model[0].num_embeddings, model[0].embedding_dim, model[1].in_features) == (7, 3, 3)


def test_sizes_are_read_off_the_weight() -> None:
    norm = nn.LayerNorm((2, 8))
    norm.weight = nn.Parameter(torch.ones(2, 5))
    refresh_sizes_(norm)
    assert norm.normalized_shape == (2, 5)
    refresh_sizes_(nn.ReLU())
