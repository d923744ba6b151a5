"""The harness under the base and every adapter: files in its layout, kept, resumed, read back; no model runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from tests.engine.fake_scorer import hashed_loglikelihood
from tests.engine.harness.test_requests import GreedyScorer
from tests.models import make_tiny_adapter
from transfergrid.analysis.imports.lm_eval import import_lm_eval
from transfergrid.benchmarks.harness.index import TaskIndex
from transfergrid.cli import main
from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.engine.harness import run as run_module
from transfergrid.engine.harness.report import HarnessReport
from transfergrid.engine.harness.run import HarnessRequest, run_harness
from transfergrid.engine.interfaces import Adapter, AdapterError, TokenisedItem
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder

_TASK = """
task: mine_{language}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
fewshot_split: test
doc_to_text: "Question: {{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
_GROUP = "group: mine\ntask: [mine_hi, mine_sw]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
_SOURCES = ("base", "s17/mine-hi", "s17/mine-sw")


@pytest.fixture(scope="module")
def adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("named") / "adapters"
    for seed, language in enumerate(("hi", "sw")):
        make_tiny_adapter(tiny_llama, root / "s17" / f"mine-{language}", seed=seed)
    return root


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tasks and their group; the harness' own are not read."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path / "tasks"
    folder.mkdir()
    for language in ("hi", "sw"):
        rows = folder / f"{language}.jsonl"
        documents = [
            {"id": f"q{n}", "question": f"{language} {n}", "choices": ["a", "be"], "gold": n % 2} for n in range(5)
        ]
        rows.write_text("".join(json.dumps(each) + "\n" for each in documents))
        (folder / f"mine_{language}.yaml").write_text(_TASK.format(language=language, rows=rows))
    (folder / "mine.yaml").write_text(_GROUP)

    def read(include_path: Any, metadata: Any) -> TaskIndex:
        return TaskIndex(TaskManager(include_path=str(folder), include_defaults=False))

    monkeypatch.setattr(TaskIndex, "read", staticmethod(read))
    return folder


class Engines:
    """Counts the engines that were started; every one scores by the same function."""

    def __init__(self) -> None:
        self.n_started = 0
        self.max_model_len = 512
        self.function = hashed_loglikelihood
        self.scorers: list[GreedyScorer] = []

    def start(self, *arguments: Any, **settings: Any) -> GreedyScorer:
        self.n_started += 1
        self.scorers.append(GreedyScorer(lambda item, choice, adapter: self.function(item, choice, adapter)))
        self.scorers[-1].sizes = SimpleNamespace(max_model_len=self.max_model_len)
        return self.scorers[-1]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    import transfergrid.engine.harness.model  # noqa: F401  # it keeps the real start under its own name

    found = Engines()
    monkeypatch.setattr("transfergrid.engine.scorers.launch.start_vllm", found.start)
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "a machine")  # it takes seconds
    return found


@pytest.fixture
def model(tiny_llama: Path) -> ModelConfig:
    return ModelConfig(path=str(tiny_llama), name="tiny")


def run(model: ModelConfig, tmp_path: Path, adapters: Path | None, *tasks: str, **more: Any) -> HarnessReport:
    request = HarnessRequest(tasks=tasks or ("mine_*",), output=tmp_path / "out", adapters=adapters, **more)
    return run_harness(GridConfig(models=(model,)), model, request, on_line=print)


def results(folder: Path) -> Iterator[tuple[Path, Any]]:
    for path in sorted(folder.rglob("results_*.json")):
        yield path, json.loads(path.read_text(encoding="utf-8"))


def test_every_source_and_task_gets_its_files_and_a_second_run_starts_no_engine(
    tmp_path: Path, tasks: Path, engines: Engines, model: ModelConfig, adapters: Path
) -> None:
    report = run(model, tmp_path, adapters, "mine_hi", "mine_sw", num_fewshot=2)
    assert report.is_complete
    assert (report.n_run, report.n_pairs, engines.n_started) == (6, 6, 1)
    assert report.scores.select("task", "source", "metric").rows() == [
        (task, source, metric)
        for task in ("mine_hi", "mine_sw")
        for source in _SOURCES
        for metric in ("acc", "acc_norm")
    ]
    (scorer,) = engines.scorers
    names = [name.partition("@")[0] if name else "base" for name in scorer.scored]
    assert names == [*_SOURCES, *_SOURCES]
    assert scorer.is_closed
    for path, content in results(tmp_path / "out"):
        (task,) = content["results"]
        folder = content["config"]["model_args"].get("peft", model.path)
        assert path.parent.name == folder.replace("/", "__")
        assert content["config"]["model"] == content["model_source"] == "transfergrid"
        assert content["n-shot"] == {task: 2}
        assert content["config"]["transfergrid"]["n_requests"] == 10
        lines = path.with_name(f"samples_{task}_{path.stem.removeprefix('results_')}.jsonl").read_text().splitlines()
        assert len(lines) == 5
    again = run(model, tmp_path, adapters, "mine_hi", "mine_sw", num_fewshot=2)
    assert (again.n_run, again.n_pairs, engines.n_started) == (0, 6, 1)
    assert again.scores.equals(report.scores)
    assert again.as_json()["failures"] == []
    for samples in (tmp_path / "out").rglob("samples_mine_sw_*.jsonl"):
        samples.unlink()
    again = run(
        model, tmp_path, adapters, "mine_hi", "mine_sw", num_fewshot=2
    )  # one task is finished, one is not begun
    assert (again.n_run, again.n_pairs, engines.n_started) == (3, 6, 2)
    assert again.scores.equals(report.scores)


def test_what_is_written_is_imported_item_by_item(
    tmp_path: Path, tasks: Path, engines: Engines, model: ModelConfig, adapters: Path
) -> None:
    run(model, tmp_path, adapters)
    run_folder = RunFolder(tmp_path / "run")
    rows = pl.read_parquet(import_lm_eval(tmp_path / "out", run_folder).path)
    assert rows.height == 3 * 2 * 5
    assert set(rows["item_id"]) == {f"q{n}" for n in range(5)}
    assert set(rows["source_language"]) == {None, "hi", "sw"}


def test_a_group_has_its_own_score_and_a_changed_task_is_evaluated_again(
    tmp_path: Path, tasks: Path, engines: Engines, model: ModelConfig
) -> None:
    report = run(model, tmp_path, None, "mine")
    assert report.scores.select("task", "source").unique().rows() == [("mine", "base")]
    (tasks / "mine_hi.yaml").write_text((tasks / "mine_hi.yaml").read_text().replace("Question:", "Frage:"))
    assert run(model, tmp_path, None, "mine").n_run == 1
    assert run(model, tmp_path, None, "mine", num_fewshot=1).n_run == 1
    assert run(model, tmp_path, None, "mine", arguments=("--limit", "2")).n_run == 1
    assert run(model, tmp_path, None, "mine", num_fewshot=1).n_run == 0


def test_a_run_that_ends_in_the_middle_goes_on_where_it_stopped(
    tmp_path: Path, tasks: Path, engines: Engines, model: ModelConfig, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(model, tmp_path / "whole", adapters)

    def stop(item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
        if adapter is not None and "mine-sw" in adapter.name:
            raise KeyboardInterrupt
        return hashed_loglikelihood(item, choice, adapter)

    engines.function = stop
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path, adapters)
    assert engines.scorers[-1].is_closed
    assert len(list(results(tmp_path / "out"))) == 2
    (tmp_path / "out" / ".unfinished" / "left").mkdir(parents=True)
    lost = next(iter((tmp_path / "out").rglob("samples_*.jsonl")))
    lost.unlink()  # a results file without its samples is not finished
    engines.function = hashed_loglikelihood
    report = run(model, tmp_path, adapters)
    assert report.n_run == 5
    assert report.scores.equals(whole.scores)
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_an_adapter_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, tasks: Path, engines: Engines, model: ModelConfig, adapters: Path
) -> None:
    def fail(item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
        if adapter is not None and "mine-hi" in adapter.name:
            raise AdapterError(f"adapter {adapter.name!r} changes nothing")
        return hashed_loglikelihood(item, choice, adapter)

    engines.function = fail
    report = run(model, tmp_path, adapters, "mine_sw")
    assert not report.is_complete
    assert (report.n_run, len(report.failures)) == (2, 1)
    assert "s17/mine-hi on mine_sw: adapter 's17/mine-hi@" in report.failures[0]


def test_what_the_harness_stops_at_is_one_sentence(
    tmp_path: Path, tasks: Path, engines: Engines, model: ModelConfig
) -> None:
    report = run(model, tmp_path, None, "mine_sw", num_fewshot=9)
    assert len(report.failures) == 1
    assert (
        "base on mine_sw: lm-evaluation-harness stops with ValueError: Sample larger than population"
        in report.failures[0]
    )


def test_a_model_without_the_template_that_is_asked_for_is_refused_before_an_engine_starts(
    tmp_path: Path, tasks: Path, engines: Engines, tiny_llama: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(tiny_llama, plain)
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"the tokenizer of '.*plain' has no chat template; leave out"):
        run(ModelConfig(path=str(plain)), tmp_path, None, arguments=("--apply_chat_template",))
    assert engines.n_started == 0


def test_prompts_that_were_cut_are_told_of(tmp_path: Path, tasks: Path, engines: Engines, model: ModelConfig) -> None:
    assert run(model, tmp_path, None, "mine_sw").remarks == ()
    engines.max_model_len = 20
    report = run(model, tmp_path, None, "mine_sw", num_fewshot=2)
    assert report.remarks == (
        "mine_sw: 10 of 10 prompts lost their beginning, since they are longer than engine.max_model_len; raise it, or "
        "use fewer shots",
    )
    assert report.as_json()["remarks"] == list(report.remarks)


def test_files_that_cannot_be_written_are_named(
    tmp_path: Path, tasks: Path, engines: Engines, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.loggers import EvaluationTracker

    monkeypatch.setattr(EvaluationTracker, "save_results_aggregated", lambda self, **_: setattr(self, "date_id", "x"))
    (failure,) = run(model, tmp_path, None, "mine_sw").failures
    assert "lm-evaluation-harness wrote 1 of 2 files below" in failure


def test_the_command_prints_scores_and_says_what_is_wrong(
    tmp_path: Path, tasks: Path, engines: Engines, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["lm-eval", "--tasks", "mine_sw", "--output_path", "out"]
    done = CliRunner().invoke(main, [*asked, "--model", str(tiny_llama), "--json", "--", "--limit", "3"])
    assert done.exit_code == 0, done.output
    assert [row["metric"] for row in json.loads(done.stdout)["scores"]] == ["acc", "acc_norm"]
    shown = CliRunner().invoke(main, [*asked, "--model", str(tiny_llama), "--", "--limit", "3"])
    assert "1 (source, task) pair in out, 0 of them from this run" in shown.output
    (tmp_path / "grid.yaml").write_text(f"models: [{{path: {tiny_llama}, name: a}}, {{path: {tiny_llama}, name: b}}]\n")
    two = CliRunner().invoke(main, asked)
    assert (two.exit_code, "the configuration has the models ['a', 'b']; choose one with --model" in two.output) == (
        1,
        True,
    )
    wrong = CliRunner().invoke(main, [*asked, "--model", "nowhere/../\n"])
    assert wrong.exit_code == 1
    assert "--model 'nowhere/../\\n' is not usable" in wrong.output
    monkeypatch.setattr(run_module, "_OF_THE_HARNESS", ())
    unknown = CliRunner().invoke(main, ["lm-eval", "--tasks", "mine_zz", "--output_path", "out", "--model", "a"])
    assert "unknown task 'mine_zz'" in unknown.output
