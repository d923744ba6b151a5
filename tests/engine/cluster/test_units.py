"""Units of work and who gets them, without Ray."""

from __future__ import annotations

import pytest

from transfergrid.engine.cluster.units import MAX_UNIT_JOBS, Unit, UnitQueue, group_units


def units(*names: str) -> list[Unit[str]]:
    """One-job units named after their model's first letter: ``a1`` is a job of model ``a``."""
    return [Unit(name[0], (name,), 1.0) for name in names]


def queue_of(*names: str, workers: tuple[str, ...] = ("x", "y"), max_attempts: int = 3) -> UnitQueue[str]:
    queue = UnitQueue(units(*names), max_attempts=max_attempts)
    for worker in workers:
        queue.join(worker)
    return queue


def test_jobs_of_a_model_and_seed_stay_together_in_nearly_equal_units() -> None:
    groups = {("a", 17): list(range(11)), ("a", 42): list(range(11, 14)), ("b", None): [99]}
    made = group_units(groups, lambda _: 1.0, n_workers=1)  # 15 jobs, a quarter of them at most
    assert [unit.jobs for unit in made] == [(0, 1, 2), (3, 4, 5, 6), (7, 8, 9, 10), (11, 12, 13), (99,)]
    assert [unit.model for unit in made] == ["a"] * 4 + ["b"]
    assert [unit.cost for unit in made] == [float(len(unit.jobs)) for unit in made]


def test_units_of_large_models_have_fewer_jobs() -> None:
    groups = {("small", 17): [1.0] * 40, ("large", 17): [9.0] * 40}
    made = group_units(groups, lambda cost: cost, n_workers=4)
    largest = 400 / (4 * 4)
    assert {len(unit.jobs) for unit in made if unit.model == "small"} == {MAX_UNIT_JOBS}
    assert {len(unit.jobs) for unit in made if unit.model == "large"} == {2, 3}
    assert max(unit.cost for unit in made) < largest + 9.0


@pytest.mark.parametrize(
    ("n_jobs", "n_workers", "largest"), [(44, 1, MAX_UNIT_JOBS), (44, 4, 3), (44, 64, 1), (3, 1, 1)]
)
def test_units_are_small_where_many_workers_share_them(n_jobs: int, n_workers: int, largest: int) -> None:
    made = group_units({("a", 17): list(range(n_jobs))}, lambda _: 1.0, n_workers=n_workers)
    assert max(len(unit.jobs) for unit in made) == largest
    assert [job for unit in made for job in unit.jobs] == list(range(n_jobs))


def test_nothing_to_do_makes_no_units() -> None:
    assert group_units({}, lambda _: 1.0, n_workers=4) == []


def test_a_worker_keeps_its_model_while_a_unit_of_it_is_left() -> None:
    queue = queue_of("a1", "b1", "a2", "b2", "b3")
    order = []
    while (unit := queue.take("x")) is not None:
        order.append(unit.jobs[0])
        queue.finish("x")
    assert order == ["b1", "b2", "b3", "a1", "a2"]
    assert queue.n_loads == 2


def test_workers_spread_over_models_by_the_work_that_is_left() -> None:
    queue = queue_of("a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1", workers=("u", "v", "w", "x"))
    taken = [queue.take(worker) for worker in ("u", "v", "w", "x")]
    assert [unit.model for unit in taken if unit is not None] == ["a", "a", "b", "a"]


def test_a_failed_unit_goes_job_by_job_to_another_worker_first() -> None:
    queue: UnitQueue[str] = UnitQueue([Unit("a", ("a1", "a2", "a3"), 3.0)])
    queue.join("x")
    queue.join("y")
    assert queue.take("x") is not None
    queue.fail("x", "killed", left=("a2", "a3"))
    assert queue.take("x") is None
    retried = queue.take("y")
    assert retried == Unit("a", ("a2",), 1.0)
    queue.leave("x")
    queue.finish("y")
    assert queue.take("y") == Unit("a", ("a3",), 1.0)


def test_a_unit_may_come_back_to_the_only_worker_and_is_given_up_in_the_end() -> None:
    queue = queue_of("a1", "a2", workers=("x",), max_attempts=2)
    for reason in ("first", "second"):
        unit = queue.take("x")
        assert unit is not None
        assert unit.jobs == ("a1",)
        queue.fail("x", reason, left=unit.jobs)
    ((given_up, reason),) = queue.given_up
    assert given_up.jobs == ("a1",)
    assert reason == "given up after 2 attempts on 1 worker(s), the last time: second"
    assert queue.n_failed_in_a_row == 2
    assert queue.take("x") is not None
    queue.finish("x")
    assert queue.n_failed_in_a_row == 0


def test_nothing_left_of_a_failed_unit_is_no_failure() -> None:
    queue = queue_of("a1", max_attempts=1)
    queue.take("x")
    queue.fail("x", "killed at the very end", left=())
    assert queue.n_waiting == 0
    assert queue.given_up == []


def test_a_worker_that_cannot_load_a_model_is_not_asked_again() -> None:
    queue = queue_of("a1", "a2", "b1")
    assert queue.take("x") == units("a1")[0]
    queue.refuse("x", "no memory")
    assert queue.take("x") == units("b1")[0]
    assert queue.take("y") == units("a1")[0]
    queue.refuse("y", "no memory either")
    queue.finish("x")
    assert queue.take("x") is queue.take("y") is None
    queue.give_up_rest("nobody is left")
    assert [(entry.unit.jobs, entry.reason) for entry in queue.given_up] == [
        (("a1",), "no memory either"),
        (("a2",), "no memory either"),
    ]
    assert queue.n_waiting == 0
