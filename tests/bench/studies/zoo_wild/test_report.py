"""The summary counts what it says it counts, and the page shows it."""

from __future__ import annotations

from typing import Any

from slimtask.bench.studies.zoo_wild.report import markdown, result_of, summary


def row(name: str, ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "slimtask": {"reason": "", "seconds": 2.0, "seconds_analysis": 1.0, **ours}, "peer": peer}


ROWS = [
    row("a", {"status": "pass", "share": 0.74, "zeroed_rel_error": 1e-7}, {"status": "runs", "share": 0.75}),
    row("b", {"status": "pass", "share": 0.4, "zeroed_rel_error": 0.1}, {"status": "runs", "share": 0.7}),
    row("c", {"status": "pass", "share": 0.1, "seconds_analysis": 20.0}, {"status": "fail", "share": 0.7}),
    row("d", {"status": "refused", "reason": "no way"}, {"status": "runs", "share": 0.7}),
    row("e", {"status": "fail", "kind": "damage", "reason": "1 place"}, {"status": "runs", "share": 0.7}),
    {"name": "f", "peer": {"status": "fail", "reason": "IndexError"}},
]


def test_the_summary_counts() -> None:
    found = summary(ROWS)
    assert found["counts"] == {"networks": 6, "pass": 3, "refused": 1, "fail": 1, "not run yet": 1}
    assert found["fails"] == {"wrong": 0, "traceback": 0, "damage": 1, "timeout": 0}
    assert found["refused"] == {"d": "no way"}
    assert found["peer"] == {"runs": 4, "fail": 2}
    assert found["both_take"] == 2
    assert found["share_not_behind"] == 0.5
    assert found["behind"] == {"b": [0.4, 0.7]}
    assert found["median_seconds_analysis"] == 1.0
    assert found["max_seconds_analysis"] == 20.0
    assert found["over_10_seconds_analysis"] == {"c": 20.0}
    assert found["zeroed"] == {"agree": 1, "differ": {"b": 0.1}, "not_compared": {}}


def test_reasons_are_added_up_whatever_their_names_and_numbers() -> None:
    reasons = [
        {"'a.b' takes 3 of them": {"groups": 2, "channels": 8, "params": 10}, "other": {"groups": 1, "channels": 1}},
        {"'c.d' takes 77 of them": {"groups": 1, "channels": 2, "params": 5}},
    ]
    ours = [{"status": "fail", "reasons": each} for each in reasons]
    found = summary([row(str(number), each, {"status": "fail"}) for number, each in enumerate(ours)])
    assert found["reasons"][0] == {
        "reason": "'...' takes # of them",
        "networks": 2,
        "groups": 3,
        "channels": 10,
        "params": 15,
    }


def test_the_page_shows_every_network() -> None:
    page = markdown(result_of(ROWS, "the command"))
    assert "`the command`" in page
    assert "6 networks, 3 pass, 1 refused, 1 fail, 1 not run yet." in page
    assert "Both slimtask and torch-pruning take 2; in 50.0%" in page
    assert "| b | - | pass | 40.0% | 70.0% |" in page
    assert "| c | - | pass | 10.0% | fails |" in page
    assert "torch-pruning: IndexError" in page
