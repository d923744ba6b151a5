import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from tests.analysis.statistics.lme4.write_rows import golden_rows
from transfergrid.analysis.statistics import reml
from transfergrid.analysis.statistics.reml import FitError, RemlFit, fit_reml, same_grouping

FOLDER = Path(__file__).parent / "lme4"
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
NAMES = ("model", "source", "target")


def golden_fit(*, nested: bool = False) -> RemlFit:
    rows = golden_rows()
    codes = {name: rows[name].to_numpy().astype(np.intp) for name in NAMES}
    return fit_reml(rows["y"].to_numpy(), codes, blocks=codes["model"] if nested else None)


def small_grid(seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    model, source, target = (each.ravel() for each in np.indices((4, 7, 6)))
    keep = generator.random(len(model)) < 0.9
    model, source, target = model[keep], source[keep], target[keep]
    effects = generator.normal(size=4), 0.7 * generator.normal(size=7), 2 * generator.normal(size=6)
    y = 1 + effects[0][model] + effects[1][source] + effects[2][target] + generator.normal(size=len(model))
    return y, {"model": model, "source": source, "target": target}


def slow_criterion(y: np.ndarray, codes: dict[str, np.ndarray], variances: np.ndarray, x: np.ndarray) -> float:
    """-2 x restricted log-likelihood from the n x n covariance."""
    covariance = variances[-1] * np.eye(len(y))
    for each, variance in zip(codes.values(), variances, strict=False):
        covariance += variance * (each[:, None] == each[None, :])
    inverse = np.linalg.inv(covariance)
    information = x.T @ inverse @ x
    residual = y - x @ np.linalg.solve(information, x.T @ inverse @ y)
    log_dets = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
    return float(log_dets + residual @ inverse @ residual + (len(y) - x.shape[1]) * np.log(2 * np.pi))


def test_the_crossed_fit_of_11880_rows_equals_lme4() -> None:
    found = golden_fit()
    expected = [GOLDEN["crossed"][name] for name in (*NAMES, "residual")]
    assert found.variances == pytest.approx(expected, rel=1e-4)
    assert found.criterion == pytest.approx(GOLDEN["criterion"], abs=1e-4)
    assert found.fixed[0] == pytest.approx(GOLDEN["intercept"], abs=1e-6)
    assert found.fixed_se[0] == pytest.approx(GOLDEN["intercept_se"], rel=1e-4)


def test_the_nested_fit_of_11880_rows_equals_lme4() -> None:
    expected = [GOLDEN["nested"][name] for name in (*NAMES, "residual")]
    assert golden_fit(nested=True).variances == pytest.approx(expected, rel=1e-3)


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R with lme4 (r-cran-lme4) is not installed")
def test_the_golden_numbers_are_what_lme4_says_today(tmp_path: Path) -> None:
    probe = subprocess.run(["Rscript", "-e", "library(lme4)"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("R is here, lme4 (r-cran-lme4) is not")
    rows, golden = tmp_path / "rows.csv", tmp_path / "golden.json"
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-m", "tests.analysis.statistics.lme4.write_rows", str(rows)], check=True, cwd=root)
    subprocess.run(["Rscript", str(FOLDER / "fit.R"), str(rows), str(golden)], check=True, capture_output=True)
    found = json.loads(golden.read_text())
    for name, value in GOLDEN["crossed"].items():
        assert found["crossed"][name] == pytest.approx(value, rel=1e-4)


def test_the_criterion_equals_the_one_from_the_full_covariance() -> None:
    y, codes = small_grid()
    found = fit_reml(y, codes)
    x = np.ones((len(y), 1))
    assert found.criterion == pytest.approx(slow_criterion(y, codes, found.variances, x), abs=1e-8)


def test_no_other_variances_have_a_lower_criterion() -> None:
    y, codes = small_grid(3)
    found = fit_reml(y, codes)
    assert (found.variances > 0).all()
    x = np.ones((len(y), 1))
    for place in range(4):
        for factor in (0.9, 1.1):
            moved = found.variances.copy()
            moved[place] *= factor
            assert slow_criterion(y, codes, moved, x) > found.criterion


def test_the_information_is_the_curvature_of_the_expected_criterion() -> None:
    """Expected information 1/2 tr(P V_k P V_l) from the n x n matrices."""
    y, codes = small_grid()
    found = fit_reml(y, codes)
    parts = [(each[:, None] == each[None, :]).astype(float) for each in codes.values()] + [np.eye(len(y))]
    covariance = sum(variance * part for variance, part in zip(found.variances, parts, strict=True))
    inverse = np.linalg.inv(covariance)
    x = np.ones((len(y), 1))
    projection = inverse - inverse @ x @ np.linalg.inv(x.T @ inverse @ x) @ x.T @ inverse
    expected = [[0.5 * np.trace(projection @ one @ projection @ other) for other in parts] for one in parts]
    assert found.information == pytest.approx(np.array(expected), rel=1e-8)


def test_fixed_columns_are_estimated_with_the_variances() -> None:
    y, codes = small_grid()
    x = np.stack([np.ones(len(y)), np.random.default_rng(1).random(len(y))], axis=1)
    found = fit_reml(y + 3 * x[:, 1], codes, fixed=x)
    assert found.criterion == pytest.approx(slow_criterion(y + 3 * x[:, 1], codes, found.variances, x), abs=1e-8)
    assert found.fixed[1] == pytest.approx(3, abs=4 * found.fixed_se[1])


def test_the_nested_fit_equals_statsmodels_mixedlm() -> None:
    y, codes = small_grid(3)
    frame = pd.DataFrame({"y": y, **codes})
    model = MixedLM.from_formula(
        "y ~ 1", groups="model", re_formula="1", vc_formula={"s": "0 + C(source)", "t": "0 + C(target)"}, data=frame
    )
    expected = model.fit(reml=True)
    found = fit_reml(y, codes, blocks=codes["model"])
    values = [float(expected.cov_re.iloc[0, 0]), *expected.vcomp, expected.scale]
    assert found.variances == pytest.approx(values, rel=2e-3, abs=2e-3)
    assert found.criterion == pytest.approx(-2 * expected.llf, abs=1e-3)


def test_shifting_and_scaling_the_response_shifts_and_scales_the_fit() -> None:
    y, codes = small_grid()
    one, other = fit_reml(y, codes), fit_reml(1000 + 10 * y, codes)
    assert other.variances == pytest.approx(100 * one.variances, rel=1e-4)
    assert other.fixed == pytest.approx(1000 + 10 * one.fixed)


def test_a_component_whose_best_variance_is_zero_is_exactly_zero_and_named() -> None:
    y, codes = small_grid(11)
    found = fit_reml(y, codes)
    assert found.singular == ("source",)
    assert found.variances[1] == 0
    without = fit_reml(y, {name: codes[name] for name in ("model", "target")})
    assert found.criterion == pytest.approx(without.criterion, abs=1e-6)
    assert fit_reml(*small_grid(3)).singular == ()


def two_factors(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A 6 x 6 grid without its diagonal; source, target and residual variance 1."""
    generator = np.random.default_rng(seed)
    source, target = (each.ravel() for each in np.indices((6, 6)))
    source, target = source[keep := source != target], target[keep]
    y = generator.normal(size=30) + generator.normal(size=6)[source] + generator.normal(size=6)[target]
    return y, {"source": source, "target": target}


def test_at_a_zero_the_criterion_rises_with_the_variance() -> None:
    zeros = 0
    x = np.ones((30, 1))
    for seed in range(150):
        y, codes = two_factors(seed)
        found = fit_reml(y, codes)
        for place in np.flatnonzero(found.variances == 0):
            zeros += 1
            for step in (1e-4, 0.05, 0.5):
                moved = found.variances.copy()
                moved[place] = step * found.variances[-1]
                assert slow_criterion(y, codes, moved, x) > found.criterion - 1e-7
    assert zeros > 10


@pytest.mark.filterwarnings("ignore:Random effects covariance", "ignore:The MLE may be on the boundary")
def test_a_small_grid_that_once_stopped_at_a_false_zero_equals_statsmodels() -> None:
    y, codes = two_factors(100)
    frame = pd.DataFrame({"y": y, "all": 1, **codes})
    parts = {"source": "0 + C(source)", "target": "0 + C(target)"}
    expected = MixedLM.from_formula("y ~ 1", groups="all", re_formula="0", vc_formula=parts, data=frame).fit()
    found = fit_reml(y, codes)
    assert found.variances == pytest.approx([*expected.vcomp, expected.scale], abs=2e-3)
    assert found.variances[1] == pytest.approx(0.544, abs=2e-3)
    assert found.criterion == pytest.approx(-2 * expected.llf, abs=1e-4)


def test_components_that_leave_no_residual_are_no_result() -> None:
    source, target = (each.ravel() for each in np.indices((6, 6)))
    with pytest.raises(FitError, match="leave no residual or can hardly be told apart"):
        fit_reml(source + target**2.0, {"source": source, "target": target})


@pytest.mark.parametrize(
    ("y", "components", "message"),
    [
        ([1.0, 2.0], {"a": [0, 1]}, "2 rows are too few"),
        ([1.0, 1.0, 1.0, 1.0], {"a": [0, 0, 1, 1]}, "every delta is the same"),
        ([1.0, 2.0, 3.0, 4.0], {"a": [0, 0, 0, 0]}, "component 'a' has one level"),
        ([1.0, 2.0, 3.0, 4.0], {"a": [0, 1, 2, 3]}, "component 'a' has one row per level"),
        ([1.0, 2.0, 3.0, 4.0], {"a": [0, 0, 1, 1], "b": [1, 1, 0, 0]}, "components 'a' and 'b' group the rows alike"),
        ([1.0, 2.0, np.nan, 4.0], {"a": [0, 0, 1, 1]}, "deltas are not finite"),
    ],
)
def test_what_cannot_be_fitted_says_why(y: list[float], components: dict[str, list[int]], message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit_reml(np.array(y), {name: np.array(codes) for name, codes in components.items()})


def test_an_optimiser_that_does_not_converge_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reml, "_MAX_STEPS", 1)
    with pytest.raises(FitError, match="did not converge in 1 steps"):
        fit_reml(*small_grid())


def test_groupings_are_compared_by_what_they_put_together() -> None:
    assert same_grouping(np.array([0, 0, 1]), np.array([5, 5, 2]))
    assert not same_grouping(np.array([0, 0, 1]), np.array([0, 1, 1]))
