import math

import pytest

from transfergrid.view.charts import curve_points


def test_a_training_curve_is_its_numbers() -> None:
    steps = [{"step": 1.0, "loss": 4.0}, {"step": 2.0, "loss": math.nan}, {"step": 3.0}, None]
    found = curve_points(steps, [{"step": 2, "validation_loss": 3.5}, {"step": 4, "validation_loss": "x"}])
    assert found == [{"step": 1.0, "loss": 4.0, "of": "training"}, {"step": 2, "loss": 3.5, "of": "validation"}]


@pytest.mark.parametrize("damaged", [None, 1, "steps", {"step": 1}])
def test_a_record_without_a_curve_has_no_points(damaged: object) -> None:
    assert curve_points(damaged, damaged) == []
