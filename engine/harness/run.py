"""The harness under the base and every adapter, on one engine: ``grid lm-eval``."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from transfergrid.benchmarks.harness.index import LoadedTask, TaskIndex
from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.engine.adapters.check import check_adapters
from transfergrid.engine.adapters.folder import find_adapters
from transfergrid.engine.harness.options import HarnessSettings, parse_settings
from transfergrid.engine.harness.report import HarnessReport, make_report
from transfergrid.engine.harness.requests import RequestScorer
from transfergrid.engine.harness.results import ResultsFolder
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.engine.scorers.multi_lora import MultiLora
from transfergrid.engine.work.base_model import ScoredBase, require_base, resolve_base
from transfergrid.grid import BASELINE_NAME, UserError
from transfergrid.store.files import hash_json
from transfergrid.store.lock import hold_run_folder
from transfergrid.store.provenance import installed_version
from transfergrid.wording import one_line

OnLine = Callable[[str], None]
_OF_THE_HARNESS = (ValueError, KeyError, TypeError, AssertionError, jinja2.TemplateError)
"""What the harness raises where a task, its data and the options do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessRequest:
    """What ``grid lm-eval`` is asked for."""

    tasks: tuple[str, ...]
    """Tasks, groups, tags or patterns such as ``xnli_*``."""
    output: Path
    """The harness' ``--output_path``."""
    adapters: Path | None = None
    """Folder under which adapters in peft's format lie; None: the base alone."""
    num_fewshot: int | None = None
    """Examples in every prompt; None leaves it to the task."""
    arguments: tuple[str, ...] = ()
    """Further options of the harness."""


@dataclass(frozen=True, slots=True)
class _Source:
    """The base, or one adapter."""

    name: str
    adapter: Adapter | None = None


def run_harness(config: GridConfig, model: ModelConfig, request: HarnessRequest, *, on_line: OnLine) -> HarnessReport:
    """Evaluate the base and every adapter with the harness; what is finished is kept.

    Args:
        config: Settings of the engine and the chat template's variables.
        model: The base.
        request: Tasks, adapters and options.
        on_line: Called with a line of text when something is done.

    Raises:
        UserError: If the model, an adapter, a task or an option cannot be used, or another process writes to the
            output folder.
    """
    settings = parse_settings(request.arguments, num_fewshot=request.num_fewshot)
    base = resolve_base(config, model, MultiLora(config.engine))
    sources = [_Source(BASELINE_NAME), *_adapter_sources(request.adapters, base)]
    tokenizer = load_tokenizer(base.folder)
    if settings.chat_template and not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {model.path!r} has no chat template; leave out --apply_chat_template, or use a model "
            "that has one"
        )
    index = TaskIndex.read(settings.include_path, settings.evaluate["metadata"])
    with hold_run_folder(request.output, "grid lm-eval", "--output_path"):
        tasks = _load(index, index.match(request.tasks), settings)
        run = _Run(config, base, settings, ResultsFolder(request.output), on_line)
        return run.evaluate(sources, tasks, tokenizer)


def _adapter_sources(root: Path | None, base: ScoredBase) -> Iterator[_Source]:
    if root is None:
        return
    folders = {_shown_name(folder, root): folder for folder in find_adapters(root)}
    for name, folder in folders.items():
        require_base(folder, base, name=name)
    for name, adapter in check_adapters(folders, read_linear_shapes(base.folder)).items():
        yield _Source(name, adapter)


def _shown_name(folder: Path, root: Path) -> str:
    relative = folder.relative_to(root).as_posix()
    return folder.resolve().name if relative == "." else relative


def _load(index: TaskIndex, names: Sequence[str], settings: HarnessSettings) -> list[LoadedTask]:
    """Load all tasks before the engine starts.

    Raises:
        UserError: If some cannot be loaded; names every fault.
    """
    tasks, faults = [], []
    for name in names:
        try:
            tasks.append(index.load(name, allow_unsafe=settings.evaluate["confirm_run_unsafe_code"]))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return tasks


@contextlib.contextmanager
def _machine_described_once() -> Iterator[None]:
    """Keep what the harness asks for with every results file: torch's description, for seconds, and git's, aloud."""
    from lm_eval import evaluator
    from torch.utils import collect_env

    here = Path.cwd()
    in_git = any((folder / ".git").exists() for folder in (here, *here.parents))
    look, describe = collect_env.get_pretty_env_info, evaluator.get_git_commit_hash
    collect_env.get_pretty_env_info = functools.cache(look)
    evaluator.get_git_commit_hash = functools.cache(describe if in_git else lambda: None)
    try:
        yield
    finally:
        collect_env.get_pretty_env_info, evaluator.get_git_commit_hash = look, describe


@dataclass(slots=True)
class _Run:
    """One base model, its adapters and some tasks."""

    config: GridConfig
    base: ScoredBase
    settings: HarnessSettings
    folder: ResultsFolder
    on_line: OnLine
    failures: list[str] = field(default_factory=list)

    def evaluate(self, sources: Sequence[_Source], tasks: Sequence[LoadedTask], tokenizer: Any) -> HarnessReport:
        """Evaluate what is not finished, task by task, and read all results."""
        self.folder.clean()
        keys = {
            (task.name, source.name): self._key(fingerprint, source)
            for task, fingerprint in [(task, task.fingerprint()) for task in tasks]
            for source in sources
        }
        finished = self.folder.finished()
        left = [pair for pair, key in keys.items() if key not in finished]
        if left:
            self.on_line(f"{len(left)} of {len(keys)} (source, task) pairs to evaluate with {self.base.name}")
            ranks = [source.adapter.rank for source in sources if source.adapter is not None]
            with _machine_described_once(), self._engine(tokenizer, max(ranks, default=None)) as engine:
                for task in tasks:
                    pending = [source for source in sources if (task.name, source.name) in left]
                    finished |= self._evaluate_task(engine, task, pending, keys)
        paths = {pair: finished[key] for pair, key in keys.items() if key in finished}
        return make_report(self.folder.root, paths, n_run=len(set(left) & set(paths)), failures=tuple(self.failures))

    def _key(self, fingerprint: str, source: _Source) -> str:
        """Return a hash of all that decides a source's scores on a task."""
        parts = self.base.shared_parts
        template = [dict(self.config.prompts.template_arguments), str(self.config.prompts.date)]
        decisive = {
            **{name: parts[name] for name in ("model", "tokenizer", "engine")},
            "max_length": parts["limits"]["max_length"],
            "adapter": None if source.adapter is None else source.adapter.content_hash,
            "harness": installed_version("lm-eval"),
            "task": fingerprint,
            "settings": repr(sorted(self.settings.evaluate.items())),
            "template": template if self.settings.chat_template else None,
        }
        return hash_json(decisive)[:16]

    @contextlib.contextmanager
    def _engine(self, tokenizer: Any, max_rank: int | None) -> Iterator[RequestScorer]:
        from transfergrid.engine.scorers.launch import start_vllm

        scorer = start_vllm(self.base.folder, self.config.engine, max_rank=max_rank, with_tokenizer=True)
        try:
            yield RequestScorer(scorer, tokenizer, self.base.folder)
        finally:
            scorer.close()

    def _evaluate_task(
        self, engine: RequestScorer, task: LoadedTask, sources: Sequence[_Source], keys: Mapping[tuple[str, str], str]
    ) -> dict[str, Path]:
        """Evaluate some sources on a task; a source or task that fails is noted, and the others go on."""
        written = {}
        for source, following in itertools.zip_longest(sources, sources[1:]):
            if following is not None and following.adapter is not None:
                engine.scorer.prefetch(following.adapter)
            key, started, busy_s = keys[task.name, source.name], time.perf_counter(), engine.engine_s
            try:
                written[key] = self._evaluate_source(engine, task, source, key)
            except AdapterError as error:
                self._fail(f"{source.name} on {task.name}: {error}")
            except UserError as error:
                self._fail(f"{source.name} on {task.name}: {error}")
                break
            except _OF_THE_HARNESS as error:
                said = f"{type(error).__name__}: {one_line(error)}"
                self._fail(f"{source.name} on {task.name}: lm-evaluation-harness stops with {said}; change its options")
                break
            else:
                whole_s = time.perf_counter() - started
                self.on_line(
                    f"{task.name}: {source.name} in {whole_s:.1f} s ({engine.engine_s - busy_s:.1f} s in the engine)"
                )
        return written

    def _fail(self, text: str) -> None:
        self.failures.append(text)
        self.on_line(f"failed: {text}")

    def _evaluate_source(self, engine: RequestScorer, task: LoadedTask, source: _Source, key: str) -> Path:
        import lm_eval
        from lm_eval.loggers import EvaluationTracker

        from transfergrid.engine.harness.model import TransferGridLM

        prompts = self.config.prompts
        model = TransferGridLM(engine, source.adapter, chat_template_args=prompts.template_arguments, date=prompts.date)
        tracker = EvaluationTracker(output_path=str(self.folder.unfinished))
        with contextlib.redirect_stdout(sys.stderr):
            results = lm_eval.simple_evaluate(
                model=model,
                model_args=self._model_args(source),
                tasks=[task.name],
                task_manager=task,
                log_samples=True,
                evaluation_tracker=tracker,
                **{name: value for name, value in self.settings.evaluate.items() if name != "metadata"},
            )
            return self.folder.write(results, tracker, key)

    def _model_args(self, source: _Source) -> dict[str, Any]:
        """Return the model as the harness' results files name it, for their readers."""
        model, engine = self.base.config, self.config.engine
        named = {"revision": model.revision, "max_model_len": engine.max_model_len, "quantization": engine.quantization}
        dtype = self.base.shared_parts["model"]["dtype"]
        peft = None if source.adapter is None else str(source.adapter.path)
        found = {"pretrained": model.path, "peft": peft, "dtype": dtype, **named}
        return {name: value for name, value in found.items() if value is not None}
