"""The configuration: the study's numbers, its file, and every fault in one message."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from transfergrid.config.file import load_config, parse_config
from transfergrid.config.languages import is_language_code
from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.config.text import PRESETS, render_config, render_reference, write_preset
from transfergrid.grid import LANGUAGES, TASKS, UserError


def test_the_recipe_defaults_to_the_studys_numbers() -> None:
    config = GridConfig()
    assert (config.lora.r, config.lora.alpha, config.lora.dropout, len(config.lora.target_modules)) == (32, 64, 0.0, 7)
    training = config.training
    assert (training.learning_rate, training.schedule, training.warmup_ratio) == (5e-5, "linear", 0.1)
    assert (training.epochs, training.batch_size, training.validation_fraction, training.validation_seed) == (
        3,
        8,
        0.1,
        42,
    )
    assert training.max_length == {"arc_challenge": 256, "global_mmlu": 512, "hellaswag": 512, "truthfulqa": 128}
    assert (config.seeds, config.tasks, config.languages) == ((17, 42, 101), TASKS, LANGUAGES)
    assert (config.prompts.train_format, config.prompts.eval_format) == ("train", "eval")
    assert (config.prompts.train_chat_template, config.prompts.eval_chat_template) == (False, True)
    assert config.analysis.harm_threshold_pp == -1.0


def test_the_paper_preset_names_nine_models_and_the_hub() -> None:
    paper = PRESETS["paper"]
    assert (len(paper.models), paper.data.source, paper.training.dtype) == (9, "hub", "bfloat16")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_written_configuration_loads_back_to_its_preset(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    write_preset(path, preset)
    assert load_config(path) == PRESETS[preset]


def test_every_setting_is_commented_in_the_file_and_in_the_reference() -> None:
    text, reference = render_config(GridConfig(), "head"), render_reference()
    for section in (
        GridConfig,
        *(f.annotation for f in GridConfig.model_fields.values() if hasattr(f.annotation, "model_fields")),
    ):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name} has no description"
            assert f"{name}:" in text
            assert name in reference


def test_an_existing_configuration_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("seeds: [1]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"exists and is kept; give another --config, or --force"):
        write_preset(path, "default")
    write_preset(path, "default", overwrite=True)
    assert load_config(path) == GridConfig()


def test_an_unknown_preset_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown preset 'papr'; expected one of \['default', "):
        write_preset(tmp_path / "x.yaml", "papr")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"enginee": {}}, r"enginee: unknown key 'enginee'; expected one of .*; did you mean 'engine'\?"),
        ({"lora": {"alhpa": 3}}, r"lora.alhpa: unknown key 'alhpa'; .*did you mean 'alpha'\?"),
        ({"models": [{"path": "a/b", "nmae": "x"}]}, r"models.0.nmae: unknown key 'nmae'; .*did you mean 'name'\?"),
        ({"models": [{"name": "x"}]}, r"models.0.path: Field required"),
        ({"models": []}, r"models: .*at least 1 item"),
        ({"models": ["a/x", "b/x"]}, r"models: two models are named 'x'; give one of them another 'name'"),
        (
            {"models": [{"path": "a/b", "name": "../x"}]},
            r"models.0.name: '../x' cannot name a folder; expected letters, digits",
        ),
        (
            {"tasks": ["arc"]},
            r"tasks: unknown task 'arc'; expected some of \['arc_challenge', .* did you mean 'arc_challenge'\?",
        ),
        ({"languages": ["gr", "de"]}, r"languages: unknown language 'gr'; expected ISO 639 codes such as"),
        (
            {"languages": ["de", False]},
            r"languages.1: expected text, not False; YAML reads an unquoted no or off as false: put the word in quotes",
        ),
        ({"tasks": "arc_challenge"}, r"tasks: expected a list, not 'arc_challenge'; write \[arc_challenge\]"),
        ({"seeds": 17}, r"seeds: expected a list, not 17; write \[17\]"),
        ({"lora": 5}, r"lora: expected a mapping of settings, not 5"),
        (
            {"training": {"max_length": {"arc": 99}}},
            r"training: max_length names the unknown task 'arc'; expected some of .*; did you mean 'arc_challenge'\?",
        ),
        (
            {"data": {"revisions": {"arrc": "abc"}}, "custom_tasks": {"mine": "mine.yaml"}},
            r"data: revisions names the unknown task 'arrc'; expected some of .*'mine'\] or a name in custom_tasks",
        ),
        ({"languages": ["de", "de"]}, r"languages: 'de' stands there twice; name each once"),
        ({"seeds": [1, 1]}, r"seeds: 1 stands there twice"),
        ({"seeds": [17, 2**32]}, r"seeds.1: Input should be less than or equal to 4294967295, not 4294967296"),
        ({"training": {"validation_seed": -1}}, r"training.validation_seed: .* greater than or equal to 0, not -1"),
        ({"analysis": {"seed": -1}}, r"analysis.seed: Input should be greater than or equal to 0, not -1"),
        ({"lora": {"r": 513}}, r"lora.r: Input should be less than or equal to 512, not 513"),
        (
            {"training": {"dtype": "bf16"}},
            r"training.dtype: 'bf16' is not accepted; expected one of \['auto', 'bfloat16'",
        ),
        ({"data": {"source": "local"}}, r"data: 'path' goes with 'source: local'"),
        ({"data": {"path": "x"}}, r"data: 'path' goes with 'source: local'"),
        (
            {"analysis": {"harm_threshold_pp": 1}},
            r"analysis.harm_threshold_pp: Input should be less than or equal to 0",
        ),
    ],
)
def test_a_fault_names_its_path_the_value_and_what_is_accepted(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(raw, origin="grid.yaml")


def test_all_faults_come_in_one_message() -> None:
    raw = {"tasks": ["x"], "languages": ["gr"], "lora": {"r": 0}, "sedes": [1], "models": [{"path": "a", "size": 1}]}
    with pytest.raises(UserError, match=r"g.yaml has 5 fault\(s\):(\n  - [^\n]*){5}$"):
        parse_config(raw, origin="g.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "is not YAML"), (b"\xff\xfe", "cannot be read"), (b"[1]", "holds a list, not a mapping of settings")],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks: [hellaswag]\nseeds: [1]\ntasks: [truthfulqa]\n", r"key 'tasks' stands in line 1 and again in line 3"),
        ("lora: {r: 8, r: 9}\n", r"key 'r' stands in line 1 and again in line 1; only the last would count, keep one"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"configuration '.*grid.yaml': {message}"):
        load_config(path)


def test_a_merged_key_may_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "models: [&model {path: a/x, size_b: 1}, {<<: *model, path: a/y}, {<<: *model, path: a/z}]\n", encoding="utf-8"
    )
    assert [(model.path, model.size_b) for model in load_config(path).models] == [("a/x", 1), ("a/y", 1), ("a/z", 1)]


def test_settings_of_a_custom_task_are_taken() -> None:
    raw = {
        "custom_tasks": {"mine": "mine.yaml"},
        "training": {"max_length": {"mine": 64}},
        "data": {"revisions": {"mine": "abc"}},
    }
    config = parse_config(raw, origin="g.yaml")
    assert (config.training.max_length, config.data.revisions) == ({"mine": 64}, {"mine": "abc"})


def test_a_missing_file_points_to_grid_init(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no configuration at .*; 'grid init' writes one"):
        load_config(tmp_path / "none.yaml")


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("# nothing\n", encoding="utf-8")
    assert load_config(tmp_path / "grid.yaml") == GridConfig()


def test_paths_start_from_the_folder_of_the_file(tmp_path: Path) -> None:
    text = yaml.safe_dump(
        {"data": {"source": "local", "path": "rows"}, "custom_tasks": {"mine": "t.yaml"}, "tasks": ["mine"]}
    )
    (tmp_path / "grid.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "grid.yaml")
    assert (config.data.path, config.custom_tasks) == (tmp_path / "rows", {"mine": tmp_path / "t.yaml"})


def test_model_folders_start_from_the_folder_of_the_file_and_hub_ids_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub" / "org" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    paths = ["./m", "../n", "org/here", "org/there", "~/o", "/x/p", "bundled:smollm2-135m-instruct"]
    (tmp_path / "sub" / "g.yaml").write_text(yaml.safe_dump({"models": paths}), encoding="utf-8")
    config = load_config(Path("sub/g.yaml"))
    expected = [tmp_path / "sub/m", tmp_path / "n", tmp_path / "sub/org/here", "org/there", tmp_path / "home/o", "/x/p"]
    assert [os.path.normpath(model.path) for model in config.models[:-1]] == [str(path) for path in expected]
    assert (config.models[-1].path, config.models[0].name) == (paths[-1], "m")


def test_the_home_folder_is_meant_by_a_tilde_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    raw = {"data": {"source": "local", "path": "~/rows"}, "custom_tasks": {"mine": "~/t.yaml"}, "models": ["~/m"]}
    config = parse_config(raw, origin="g.yaml", folder=tmp_path)
    home = tmp_path / "home"
    assert (config.data.path, config.custom_tasks["mine"], config.models[0].path) == (
        home / "rows",
        home / "t.yaml",
        str(home / "m"),
    )
    with pytest.raises(UserError, match="path '~nobody-of-that-name/m' starts with a home folder that is not known"):
        parse_config({"models": ["~nobody-of-that-name/m"]}, origin="g.yaml", folder=tmp_path)


def test_a_model_is_named_after_its_path() -> None:
    names = [ModelConfig.model_validate(path).name for path in ("a/B-1", "/x/y/z/", "bundled:smollm2-135m-instruct")]
    assert names == ["B-1", "z", "smollm2-135m-instruct"]


@pytest.mark.parametrize(
    ("code", "known"), [("sw", True), ("swh", True), ("zh_hant", True), ("gr", False), ("DE", False)]
)
def test_languages_are_iso_codes(code: str, known: bool) -> None:
    assert is_language_code(code) is known


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        GridConfig().seeds = (1,)  # type: ignore[misc]


@given(
    tasks=st.lists(st.sampled_from(TASKS), min_size=1, unique=True),
    languages=st.lists(st.sampled_from(LANGUAGES), min_size=1, unique=True),
    seeds=st.lists(st.integers(0, 999), min_size=1, unique=True),
)
def test_any_subset_gives_a_consistent_grid(tasks: list[str], languages: list[str], seeds: list[int]) -> None:
    config = parse_config({"tasks": tasks, "languages": languages, "seeds": seeds}, origin="x")
    text = yaml.safe_load(render_config(config, "head"))
    assert parse_config(text, origin="x") == config
    assert len(config.grid.cells) == len(tasks) * len(languages)
    assert config.grid.source_cells == config.grid.cells


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"seeds": [True]}, r"seeds.0: expected a number, not true$"),
        ({"training": {"learning_rate": True}}, r"training.learning_rate: expected a number, not true$"),
        ({"training": {"max_length": {"hellaswag": False}}}, r"max_length.hellaswag: expected a number, not false$"),
        ({"lora": {"r": True}}, r"lora.r: expected a number, not true$"),
        ({"training": {"learning_rate": float("inf")}}, r"learning_rate: Input should be a finite number, not inf$"),
        ({"models": ["m" * 300]}, r"models.0.path: 'm{40}...' is a path of 300 bytes with a name of 300; expected at"),
        ({"models": [{"path": "m", "name": "n" * 129}]}, r"models.0.name: 'n{40}...' is longer than 128 bytes; give"),
        ({"models": ["m\ud800"]}, r"models.0.path: .* holds half a character"),
        ({"models": ["m\0"]}, r"models.0.path: 'm.x00' holds a null character; no path can"),
        ({"data": {"source": "local", "path": "d" * 300}}, r"data.path: 'd{40}...' is a path of 300 bytes"),
        ({"custom_tasks": {"mine": "d" * 300}}, r"custom_tasks.mine: 'd{40}...' is a path of 300 bytes"),
        ({"seeds": [10**5000]}, r"seeds.0: .*, not a int too long to show$"),
        ({"lora": {"target_modules": []}}, r"has 1 fault\(s\):\n  - lora.target_modules: .* at least 1 item"),
    ],
)
def test_values_that_python_would_take_silently_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(raw, origin="file")


def test_the_day_of_the_templates_is_a_setting() -> None:
    assert GridConfig().prompts.date.isoformat() == "2024-07-26"
    assert parse_config({"prompts": {"date": "2026-01-02"}}, origin="file").prompts.date.isoformat() == "2026-01-02"
