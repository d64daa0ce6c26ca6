"""The relate section: keep ratios, which sparsities count, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from slimtask.train.relate.config import KAPPA_TABLES, RelateConfig


def test_the_defaults_are_the_studys() -> None:
    config = RelateConfig()
    assert (config.batches, config.seeds, config.sparsities) == (5, 5, (0.3, 0.5, 0.7, 0.9))
    assert (config.similarity, config.weighting, config.kappa) == ("mcss", "equal", "ratio")
    assert [config.sparsities[index] for index in config.averaged] == [0.5, 0.7]


def test_keep_ratios_by_ratio_and_by_table() -> None:
    assert RelateConfig().keep_ratio(0.9) == pytest.approx(0.1)
    assert RelateConfig(kappa="cityscapes").keep_ratio(0.5) == 0.510
    for table in KAPPA_TABLES.values():  # a union of masks is larger than each, so each is smaller than 1 - sparsity
        assert all(keep < 1.02 * (1 - sparsity) + 0.01 for sparsity, keep in table.items())


def test_which_sparsities_count() -> None:
    assert RelateConfig(sparsities=(0.8, 0.9)).averaged == (0, 1)
    assert RelateConfig(sparsities=(0.9, 0.6)).averaged == (1,)
    assert RelateConfig(average_over=(0.3, 0.9)).averaged == (0, 3)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"sparsities": (30.0,)}, "less than 1"),
        ({"sparsities": ()}, "at least 1 item"),
        ({"sparsities": (0.5, 0.5)}, "given twice"),
        ({"average_over": (0.6,)}, "0.6 is not among the sparsities"),
        ({"sparsities": (0.6,), "kappa": "nyu_v2"}, "the table 'nyu_v2' has 0.3, 0.5, 0.7, 0.9, not 0.6"),
        ({"similarity": "cosine"}, "mcss"),
        ({"groups": 0}, "greater than or equal to 1"),
    ],
)
def test_what_is_refused(section: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        RelateConfig(**section)
