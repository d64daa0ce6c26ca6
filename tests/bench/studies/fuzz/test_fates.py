"""What became of a construct is read off the plan, and one that is suddenly refused is a failure of the whole run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from slimtask.bench.studies.fuzz import fates as fuzz_fates
from slimtask.bench.studies.fuzz.fates import (
    by_construct,
    excused_for_nothing,
    may_be_refused,
    never_shrunk,
    outcomes,
    reason_in,
)
from slimtask.bench.studies.fuzz.networks import BLOCKS, FORMS, labels_of, network


def done(*layers: str, tensors: tuple[str, ...] = (), axis: int = 0) -> Any:
    return SimpleNamespace(
        plan=SimpleNamespace(
            layers=[SimpleNamespace(module=name, outputs=(0,), inputs=None) for name in layers],
            tensors=[SimpleNamespace(tensor=name, axis=axis, kept=(0,)) for name in tensors],
        )
    )


def test_a_construct_shrinks_if_the_layer_it_works_on_does() -> None:
    net = network(1, ["Rotary"])
    labels = labels_of(net)
    at = next(place for label, place in labels if label == "Rotary")
    assert ("Rotary", "shrunk") in outcomes(net, labels, done(f"{at}.q"), None)
    assert ("Rotary", "shrunk") in outcomes(net, labels, done(tensors=(f"{at}.q.weight",)), None)
    assert ("Rotary", "shrunk") not in outcomes(net, labels, done(tensors=(f"{at}.q.weight",), axis=1), None)
    assert ("Rotary", "shrunk") not in outcomes(net, labels, done(f"{at}.first", f"{at}.qkv"), None)


def test_what_is_refused_or_fails_is_so_for_all_parts() -> None:
    net = network(2)
    labels = labels_of(net)
    assert {fate for _, fate in outcomes(net, labels, None, "no")} == {"refused"}
    assert {fate for _, fate in outcomes(net, labels, None, None)} == {"failed"}


def test_only_constructs_that_never_shrink_without_excuse_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_fates, "MAY_BE_REFUSED", {"B": "not yet", "C(x)": "not yet", "D": "no more"})
    fates = {
        "A": ["whole", "refused", "whole"],
        "B": ["refused"] * 3,
        "C(x)": ["whole"] * 3,
        "C(y)": ["whole"] * 3,
        "D": ["shrunk"] * 3,
        "E": ["whole", "whole", "failed"],  # too few to say
        "F": ["whole", "whole", "whole", "shrunk"],
    }
    counts = by_construct([{"constructs": [(label, fate)]} for label, all_of in fates.items() for fate in all_of])
    assert counts["A"] == {"drawn": 3, "whole": 2, "refused": 1}
    assert never_shrunk(counts) == ["A", "C(y)"]
    assert excused_for_nothing(counts) == ["D"]
    assert may_be_refused("C(x)")


def test_the_table_names_constructs_that_there_are() -> None:
    known = {*BLOCKS, *FORMS, "RoiHead"}
    assert {label.partition("(")[0] for label in fuzz_fates.MAY_BE_REFUSED} <= known
    assert all(fuzz_fates.MAY_BE_REFUSED.values())


def test_equal_reasons_count_together() -> None:
    one = "nothing can be removed: 0 of 47; they are fixed because: 'roi_align' mixes (a.b (2), c); no. Keep them out."
    two = "nothing can be removed: 1 of 9; they are fixed because: 'roi_align' mixes (d); no. Keep them out."
    assert reason_in(one) == reason_in(two)
    assert reason_in("Net 12 does not run") == "Net N does not run"
