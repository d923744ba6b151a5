import pytest

from transfergrid.analysis.transfer.model_traits import family_of, size_b_of, size_class, traits_frame
from transfergrid.config.settings import ModelConfig
from transfergrid.config.text import PAPER_MODELS


@pytest.mark.parametrize(
    ("name", "family", "size_b"),
    [
        ("Llama-3.2-1B-Instruct", "llama", 1.0),
        ("Llama-3.1-8B-Instruct", "llama", 8.0),
        ("Qwen2.5-0.5B-Instruct", "qwen", 0.5),
        ("Qwen2.5-1.5B-Instruct", "qwen", 1.5),
        ("gemma-3-4b-it", "gemma", 4.0),
        ("smollm2-135m-instruct", "smollm", 0.135),
        ("some-model", "unknown", None),
    ],
)
def test_family_and_size_are_read_off_the_name(name: str, family: str, size_b: float | None) -> None:
    assert family_of(name) == family
    assert size_b_of(name) == size_b


@pytest.mark.parametrize(
    ("size_b", "expected"),
    [(0.135, "<=1.5B"), (1.5, "<=1.5B"), (3, "<7B"), (7, ">=7B"), (8, ">=7B"), (None, "unknown")],
)
def test_size_classes_are_the_studys(size_b: float | None, expected: str) -> None:
    assert size_class(size_b) == expected


def test_every_model_of_the_study_has_a_family_and_a_size() -> None:
    frame = traits_frame([path.rsplit("/", 1)[-1] for path in PAPER_MODELS])
    assert frame.height == 9
    assert sorted(frame["family"].unique()) == ["gemma", "llama", "qwen"]
    assert frame["size"].value_counts().sort("size").rows() == [("<7B", 3), ("<=1.5B", 4), (">=7B", 2)]


def test_configuration_comes_before_an_imported_size_and_that_before_the_name() -> None:
    config = ModelConfig(path="x/tiny-1B", family="Own", size_b=9)
    assert traits_frame(["tiny-1B"], [config], {"tiny-1B": 3.0}).row(0) == ("tiny-1B", "own", 9.0, ">=7B")
    assert traits_frame(["tiny-1B"], (), {"tiny-1B": 3.0}).row(0) == ("tiny-1B", "unknown", 3.0, "<7B")
    assert traits_frame(["tiny-1B"], [ModelConfig(path="tiny-1B")])["size"].item() == "<=1.5B"
