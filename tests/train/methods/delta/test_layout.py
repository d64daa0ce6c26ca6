"""Which parameters of a transformer are gated, and which of them share gates."""

from __future__ import annotations

import pytest

from slimtask.errors import InputError
from slimtask.train.methods.delta.config import DeltaConfig, GatesConfig
from slimtask.train.methods.delta.layout import gated_parameters

B = "encoder.layers.encoder_layer_0."
VIT = {
    "class_token": (1, 1, 4),
    "conv_proj.weight": (4, 3, 8, 8),
    "encoder.pos_embedding": (1, 5, 4),
    B + "ln_1.weight": (4,),
    B + "ln_1.bias": (4,),
    B + "self_attention.in_proj_weight": (12, 4),
    B + "self_attention.in_proj_bias": (12,),
    B + "self_attention.out_proj.weight": (4, 4),
    B + "self_attention.out_proj.bias": (4,),
    B + "mlp.0.weight": (16, 4),
    B + "mlp.0.bias": (16,),
    B + "mlp.3.weight": (4, 16),
    B + "mlp.3.bias": (4,),
    "encoder.ln.weight": (4,),
}
LINEAR = [name for name in VIT if ".self_attention." in name or ".mlp." in name]
MLP = [B + "mlp.0.weight", B + "mlp.0.bias", B + "mlp.3.weight"]
ATTENTION = [B + f"self_attention.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight")]


@pytest.mark.parametrize("feed", ["own", "base"])
@pytest.mark.parametrize(
    ("kind", "names", "gates"),
    [
        ("element", None, None),
        ("tensor", None, None),
        ("block", None, None),
        ("out-channels", None, None),
        ("hidden-units", MLP, 1),
        ("heads", ATTENTION, 1),
        ("units", ATTENTION + MLP, 2),
    ],
)
def test_what_is_gated(feed: str, kind: str, names: list[str] | None, gates: int | None) -> None:
    config = DeltaConfig(base="depth", feed=feed, gates=GatesConfig(kind=kind, density=0.1, block=2))
    made = gated_parameters(VIT, config, head_width=2)
    expected = names or (LINEAR if feed == "base" else list(VIT))
    assert list(made) == [name for name in VIT if name in expected]
    if gates:
        assert len({one.gates for one in made.values()}) == gates
    units: dict[str, set[int]] = {}
    for name, one in made.items():
        units.setdefault(one.gates, set()).add(one.pattern.units(VIT[name]))
    assert all(len(counts) == 1 for counts in units.values())  # parameters that share gates have the same units
    if kind == "out-channels":
        assert made[B + "mlp.0.weight"].gates == made[B + "mlp.0.bias"].gates != made[B + "mlp.3.bias"].gates


def test_a_trunk_without_such_parts_is_refused() -> None:
    config = DeltaConfig(base="depth", gates=GatesConfig(kind="heads", density=0.1))
    with pytest.raises(InputError, match="no heads that could change"):
        gated_parameters({"stem.weight": (4, 3)}, config, head_width=2)
