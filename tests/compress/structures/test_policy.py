"""Policies: paths that part and never meet again, against brute force over all small policies."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slimtask.compress.structures.policy import Policy
from slimtask.errors import InputError

POLICY = Policy(
    blocks=("b0", "b1", "b2", "b3"),
    selects={
        "seg": (True, True, False, True),
        "depth": (True, True, False, False),
        "normals": (True, False, True, False),
    },
)


def test_the_example_by_hand() -> None:
    assert POLICY.tasks == ("seg", "depth", "normals")
    assert POLICY.union() == (True, True, True, True)
    assert POLICY.union(["seg", "depth"]) == (True, True, False, True)
    assert POLICY.skipped(["seg", "depth"]) == ("b2",)
    assert POLICY.shared_prefix() == ("b0",)
    assert POLICY.shared_prefix(["seg", "depth"]) == ("b0", "b1", "b2")
    assert POLICY.shared_prefix(["seg"]) == POLICY.blocks
    assert POLICY.merge_points() == ("b1", "b3")
    assert POLICY.merge_points(["seg"]) == ()
    assert POLICY.sharing("b0") == (("seg", "depth", "normals"),)
    assert POLICY.sharing("b2") == (("seg", "depth"), ("normals",))
    # depth and normals decide b3 alike, but what they did before stays in their features
    assert POLICY.sharing("b3", ["depth", "normals"]) == (("depth",), ("normals",))
    assert POLICY.restricted(["normals"]).selects == {"normals": (True, False, True, False)}
    assert str(POLICY).splitlines()[1] == "depth    ##..  2 of 4 blocks"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 5).flatmap(
        lambda n: st.lists(st.tuples(*[st.booleans()] * n).map(tuple), min_size=1, max_size=4)
    )
)
def test_prefix_branches_and_sharing_against_brute_force(rows: list[tuple[bool, ...]]) -> None:
    """Simulate each task's features as the list of what it executed: equal features, shared computation."""
    names = tuple(f"b{i}" for i in range(len(rows[0])))
    policy = Policy(blocks=names, selects={f"t{k}": row for k, row in enumerate(rows)})
    features = [[row[: i + 1] for row in rows] for i in range(len(names))]
    distinct = [1, *(len(set(at)) for at in features)]
    assert len(policy.shared_prefix()) == sum(1 for _ in itertools.takewhile(lambda n: n == 1, distinct[1:]))
    assert policy.merge_points() == tuple(name for i, name in enumerate(names) if distinct[i + 1] > distinct[i])
    for i, name in enumerate(names):
        sets = policy.sharing(name)
        assert sorted(task for members in sets for task in members) == sorted(policy.tasks)
        together = {(a, b) for members in sets for a in members for b in members}
        for a, b in itertools.product(range(len(rows)), repeat=2):
            assert ((f"t{a}", f"t{b}") in together) == (features[i][a] == features[i][b])
    assert policy.skipped() == tuple(name for i, name in enumerate(names) if not any(row[i] for row in rows))


def test_a_policy_comes_back_from_its_file(tmp_path: Path) -> None:
    POLICY.save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json") == POLICY
    with pytest.raises(InputError, match=r"policy '.*no\.json' does not exist"):
        Policy.load(tmp_path / "no.json")
    (tmp_path / "policy.json").write_text('{"blocks": ["b0"], "selects": {"seg": [true, false]}}')
    with pytest.raises(
        InputError, match=r"policy\.json' is not valid .*task 'seg' decides on 2 blocks, the trunk has 1"
    ):
        Policy.load(tmp_path / "policy.json")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"blocks": ["a", "a"], "selects": {"t": [True, True]}}, "names block 'a' twice"),
        ({"blocks": [], "selects": {"t": []}}, "blocks: Tuple should have at least 1"),
        ({"blocks": ["a"], "selects": {}}, "selects: Dictionary should have at least 1"),
        ({"blocks": ["a"], "selects": {"t": ["perhaps"]}}, "selects.t.0"),
        ({"blocks": ["a"], "selects": {"t": [True]}, "more": 1}, "more"),
        ([], "should be a valid dictionary"),
    ],
)
def test_what_is_not_a_policy_is_said(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Policy.from_json(value)
    if isinstance(value, dict):
        with pytest.raises(ValidationError):
            Policy(**value)


def test_unknown_names_are_said() -> None:
    with pytest.raises(InputError, match="no task 'deph'; did you mean 'depth'"):
        POLICY.union(["deph"])
    with pytest.raises(InputError, match="no block 'b9'"):
        POLICY.sharing("b9")
    with pytest.raises(InputError, match="at least one task"):
        POLICY.skipped([])
