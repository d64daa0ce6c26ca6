import numpy as np
import pytest

from slimtask.errors import InputError
from slimtask.export.parity import check_parity, ill_conditioned_outputs, probe_inputs
from slimtask.tasks import Preprocessing, TaskSpec


def test_errors_are_relative_to_the_scale_of_the_reference():
    reference = {"depth": np.array([[0.0, 4.0, -8.0, 2.0]])}
    candidate = {"depth": np.array([[0.4, 4.0, -8.0, 2.0]])}
    parity = check_parity(reference, candidate, tolerance=0.1)
    error = parity.outputs["depth"]
    assert (error.scale, error.max_abs, error.mean_abs) == (8.0, 0.4, pytest.approx(0.1))
    assert (error.max_rel, error.mean_rel) == (pytest.approx(0.05), pytest.approx(0.0125))
    assert parity
    assert not check_parity(reference, candidate, tolerance=0.04)


def test_an_ill_conditioned_output_is_judged_by_p99_and_no_other():
    reference = {"normals": np.ones((1, 1000)), "depth": np.ones((1, 1000))}
    candidate = {"normals": np.where(np.arange(1000) == 7, 2.0, 1.0)[None], "depth": np.ones((1, 1000))}
    assert not check_parity(reference, candidate, 1e-3)
    parity = check_parity(reference, candidate, 1e-3, {"normals"})
    assert parity
    assert {name: error.statistic for name, error in parity.outputs.items()} == {"normals": "p99", "depth": "max"}
    assert parity.outputs["normals"].max_rel == 1
    assert not check_parity(candidate, reference, 1e-3, {"depth"})


def test_unit_vectors_are_ill_conditioned():
    specs = [TaskSpec(name="n", kind="normals", channels=3), TaskSpec(name="d", kind="depth", channels=1)]
    assert ill_conditioned_outputs(specs) == {"n"}


def test_the_worst_output_decides_and_is_named():
    reference = {"a": np.ones((2, 3)), "b": np.ones((2, 3))}
    candidate = {"a": np.ones((2, 3)), "b": np.full((2, 3), 1.5)}
    parity = check_parity(reference, candidate, 0.1)
    assert not parity
    assert parity.worst == "b"
    assert parity.inputs == 2
    assert "'b' differs by 5.00e-01" in str(parity)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate", "both"])
def test_what_is_not_finite_is_never_equal(bad, side):
    good, damaged = np.ones((1, 4)), np.array([[1.0, bad, 1.0, 1.0]])
    reference = {"x": good if side == "candidate" else damaged}
    candidate = {"x": good if side == "reference" else damaged}
    for ill_conditioned in ((), {"x"}):
        assert not check_parity(reference, candidate, 1e9, ill_conditioned)


def test_a_reference_of_zeros_accepts_only_zeros():
    zeros = {"x": np.zeros((1, 3))}
    assert check_parity(zeros, zeros, 1e-6)
    assert not check_parity(zeros, {"x": np.full((1, 3), 1e-20)}, 1e-6)


def test_other_names_or_shapes_are_refused():
    with pytest.raises(InputError, match="cannot be compared"):
        check_parity({"a": np.ones((1, 2))}, {"b": np.ones((1, 2))}, 1e-4)
    with pytest.raises(InputError, match="shape"):
        check_parity({"a": np.ones((1, 2))}, {"a": np.ones((1, 3))}, 1e-4)


def test_probes_are_repeatable_normalised_8_bit_images():
    preprocessing = Preprocessing(height=9, width=13, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    probes = probe_inputs(preprocessing, count=4)
    assert (probes.shape, probes.dtype) == ((4, 3, 9, 13), np.float32)
    np.testing.assert_array_equal(probes, probe_inputs(preprocessing, count=4))
    mean, std = np.array([0.5, 0.4, 0.3]).reshape(3, 1, 1), np.array([0.2, 0.3, 0.4]).reshape(3, 1, 1)
    pixels = (probes * std + mean) * 255
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-3)
    assert pixels.min() > -0.01
    assert pixels.max() < 255.01


def test_of_class_numbers_the_share_that_differs_is_judged():
    reference = {"classes": np.arange(200).reshape(1, 200)}
    other = reference["classes"].copy()
    other[0, 7] = 199
    parity = check_parity(reference, {"classes": other}, 1e-2)
    assert parity
    assert parity.error == 1 / 200
    assert not check_parity(reference, {"classes": other}, 1e-3)
    mask = {"mask": np.array([[True, False, True, True]])}
    assert check_parity(mask, {"mask": ~mask["mask"]}, 1e-2).error == 1.0
    with pytest.raises(InputError, match="is float32, the reference int64"):
        check_parity(reference, {"classes": other.astype(np.float32)}, 1e-2)
