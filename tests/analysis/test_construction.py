from transfergrid.analysis.construction import constructions
from transfergrid.config import DataConfig, GridConfig
from transfergrid.grid import TASKS


def test_the_studys_data_sets_are_translated_by_machines_but_for_global_mmlu() -> None:
    found = constructions(TASKS)
    assert found.pop("global_mmlu") == "human-translated"
    assert set(found.values()) == {"machine-translated"}
    assert constructions(["arc_challenge"], GridConfig(data=DataConfig(source="hub"))) == {
        "arc_challenge": "machine-translated"
    }


def test_bundled_items_are_written_and_other_tasks_unknown() -> None:
    assert constructions(["hellaswag", "own"], GridConfig()) == {"hellaswag": "written", "own": "unknown"}
