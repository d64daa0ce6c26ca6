from __future__ import annotations

import numpy as np
import pytest

from slimtask.bench.studies.delta.compare import max_rel_error
from slimtask.bench.studies.delta.graphs import Session
from slimtask.bench.studies.delta.linear import LinearData, delta_graph, linear_forms, whole_outputs
from slimtask.kernels.ref import delta_linear


def data(rows: float) -> LinearData:
    return LinearData.random(inputs=24, outputs=40, tokens=20, tasks=3, density=0.1, rows=rows, seed=1)


@pytest.mark.parametrize("rows", [0.0, 0.3, 1.0])
def test_the_truth_is_the_definition(rows: float) -> None:
    made = data(rows)
    lists = made.rows.lists() if rows else [np.array([], np.int32)] * 3
    base, tasks = delta_linear(
        made.x.astype(np.float64),
        made.weight,
        made.changed.dense(),
        bias_M=made.bias,
        rows=lists,
        x_rows=[made.own(task)[which] for task, which in enumerate(lists)],
    )
    truth = made.truth()
    np.testing.assert_allclose(truth[0], base, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.stack(truth[1:]), tasks, rtol=0, atol=1e-6)
    assert (made.own(1) != made.x).any(axis=1).sum() == (len(lists[1]) if rows else 0)


def test_graphs_give_every_task_its_output_and_lose_their_work_where_rows_change() -> None:
    points = ((0.1, 0.0), (0.1, 0.3), (0.1, 1.0))
    baselines, forms = linear_forms((24, 40), tokens=20, tasks=3, points=points, threads=1)
    assert set(baselines) == {"dense", "batched", "batched own"}
    for call in baselines.values():
        call()
    assert max(form.max_rel_error for form in forms) < 1e-6
    by_point = {(form.rows, form.output): form for form in forms if form.pattern == "out-channels"}
    assert by_point[0.0, "compact"].flop_ratio == pytest.approx(3 / (1 + 3 * 0.1))
    assert by_point[0.3, "full"].flop_ratio == pytest.approx(3 / (1 + 3 * (0.1 + 0.3)))
    assert [by_point[rows, "compact"].batched for _, rows in points] == ["batched", "batched own", "batched own"]
    merged = next(form for form in forms if form.pattern == "unstructured")
    assert merged.flop_ratio == 3 / 4


def test_a_wrong_row_is_seen() -> None:
    made = data(0.3)
    session = Session(delta_graph(made, full=False), made.feeds(), threads=1)
    found = session.outputs()
    assert max_rel_error(whole_outputs(made, found), made.truth()) < 1e-6
    found["changed_2"][0] += 1.0
    assert max_rel_error(whole_outputs(made, found), made.truth()) > 0.1
