import pytest

from tests.analysis.imports.test_lm_eval import MODEL
from transfergrid.analysis.imports.lm_eval_names import adapter_source, parse_arguments, task_cell
from transfergrid.grid import Cell, Source, UserError


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("arc_de", "arc_challenge-de"),
        ("arc_challenge", "arc_challenge-en"),
        ("hellaswag", "hellaswag-en"),
        ("truthfulqa_bn_mc1", "truthfulqa-bn"),
        ("global_mmlu_full_hi", "global_mmlu-hi"),
        ("own_task_fr", "own_task-fr"),
        ("truthfulqa_gen", None),
        ("global_mmlu_de_stem", None),
        ("Upper_de", None),
    ],
)
def test_task_names_become_cells(name: str, cell: str | None) -> None:
    assert task_cell(name) == (None if cell is None else Cell.parse(cell))


def test_the_adapters_folder_names_its_seed_and_cell() -> None:
    base, folder, seed, source = adapter_source({"pretrained": MODEL, "peft": "/a/M/s17/arc_challenge-de"})
    assert (base, folder, seed, source.name) == (MODEL, "/a/M/s17/arc_challenge-de", 17, "arc_challenge-de")
    _, _, seed, source = adapter_source({"pretrained": "x", "lora_local_path": "b/hellaswag-zh/"})
    assert (seed, source.name) == (0, "hellaswag-zh")
    assert adapter_source({"pretrained": "x/"}) == ("x", None, None, Source())


def test_model_arguments_may_be_text() -> None:
    assert parse_arguments("pretrained=a/b,peft=c,flag") == {"pretrained": "a/b", "peft": "c"}
    assert parse_arguments(None) == {}


def test_adapter_folders_that_are_no_cell_and_missing_models_are_refused() -> None:
    with pytest.raises(UserError, match="adapter folder '/a/my_adapter' does not say what it was trained on"):
        adapter_source({"pretrained": "x", "peft": "/a/my_adapter"})
    with pytest.raises(UserError, match="name no base model"):
        adapter_source({"peft": "/a/arc_challenge-de"})
