from __future__ import annotations

import numpy as np
import pytest

from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.errors import InputError

CONDITIONS = Conditions(
    backend="onnxruntime-cpu",
    backend_version="1.31.1",
    device="some CPU",
    precision="float32",
    threads=2,
    batch=1,
    shape=(3, 96, 128),
    run_id="run",
)


def measurement(samples, **changes) -> Measurement:
    return Measurement(samples_ms=tuple(map(float, samples)), conditions=CONDITIONS.model_copy(update=changes))


def test_statistics_equal_numpy():
    samples = np.random.default_rng(0).gamma(5.0, 2.0, size=101)
    one = measurement(samples)
    assert one.n == 101
    assert one.median_ms == pytest.approx(np.median(samples))
    assert [one.p10_ms, one.p90_ms, one.p99_ms] == pytest.approx(list(np.quantile(samples, [0.1, 0.9, 0.99])))
    assert one.minimum_ms == samples.min()
    assert one.summary()["p90"] == one.p90_ms


def test_steady_means_median_close_to_minimum():
    assert measurement([10.0, 11.0, 11.0, 30.0]).steady
    assert not measurement([10.0, 12.0, 12.0, 12.0]).steady


@pytest.mark.parametrize("samples", [(), (1.0, 0.0), (1.0, float("nan")), (float("inf"),)])
def test_impossible_samples_are_refused(samples):
    with pytest.raises(ValueError, match="samples_ms"):
        measurement(samples)


def test_measurement_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        measurement([1.0]).samples_ms = (2.0,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend", "pytorch-cpu"),
        ("backend_version", "1.22"),
        ("device", "another CPU"),
        ("precision", "float16"),
        ("threads", 1),
        ("batch", 8),
        ("shape", (3, 48, 64)),
        ("graph", True),
    ],
)
def test_ratio_refuses_other_conditions_unless_they_are_the_question(name, value):
    one, other = measurement([4.0, 4.0]), measurement([2.0, 2.0], **{name: value})
    with pytest.raises(InputError, match=name):
        one.ratio(other)
    assert one.ratio(other, across=(name,)).value == 2.0


@pytest.mark.parametrize(("mine", "theirs"), [("run", "other"), ("", "")])
def test_ratio_refuses_another_run(mine, theirs):
    with pytest.raises(ValueError, match="different runs"):
        measurement([4.0], run_id=mine).ratio(measurement([2.0], run_id=theirs))


def test_ratio_refuses_unpaired_rounds():
    with pytest.raises(InputError, match="interleaved"):
        measurement([4.0, 4.0]).ratio(measurement([2.0]))


def test_bootstrap_interval_covers_the_known_ratio_nineteen_times_in_twenty():
    rng, covered, trials = np.random.default_rng(3), 0, 100
    for seed in range(trials):
        slim = rng.normal(2.0, 0.1, 40)
        dense = rng.normal(4.6, 0.3, 40)
        ratio = measurement(dense).ratio(measurement(slim), seed=seed)
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 2.3 <= ratio.high
    # A percentile bootstrap of medians covers 95 % up to a few per cent at n = 40; binomial deviation is 2 %.
    assert 88 <= covered <= 100


def test_pairing_cancels_drift_that_both_saw():
    drift = np.linspace(1.0, 3.0, 60)
    ratio = measurement(5.0 * drift).ratio(measurement(2.5 * drift))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert ratio.above_one
    assert not ratio.below_one
    assert str(ratio) == "2.00x [2.00, 2.00]"


def test_json_round_trip_keeps_every_sample():
    one = measurement([1.25, 2.5, 3.75])
    value = one.to_json()
    assert value["summary"]["median"] == 2.5
    assert Measurement.from_json(value) == one


def test_damaged_json_names_the_key():
    value = measurement([1.0]).to_json()
    value["conditions"]["threads"] = "many"
    with pytest.raises(InputError, match=r"conditions\.threads"):
        Measurement.from_json(value)
