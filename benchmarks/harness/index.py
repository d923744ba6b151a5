"""Tasks of lm-evaluation-harness: found by name, loaded once, refused in one sentence where they cannot be used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from transfergrid.benchmarks.harness.counting import KINDS
from transfergrid.config.harness import HarnessTask
from transfergrid.grid import UserError
from transfergrid.store.files import hash_json
from transfergrid.store.provenance import installed_version
from transfergrid.wording import closest_hint, one_line

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""What differs from process to process in the text of a function."""


def require_harness() -> None:
    """Check that lm-evaluation-harness is installed.

    Raises:
        UserError: If it is not.
    """
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"lm-evaluation-harness is not installed ({one_line(error)}); install it with pip install "
            "'transfergrid[lm-eval]'"
        ) from error


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task, group or tag of the harness with its documents; stands in for its ``TaskManager`` in an evaluation.

    Every adapter gets the same objects, so that documents are read once.
    """

    name: str
    content: Mapping[str, Any]
    """What ``TaskManager.load`` returns: ``tasks``, ``groups``, ``group_map``."""
    task_index: Mapping[str, Any]

    def load(self, task_list: Any) -> Mapping[str, Any]:
        """Return what is loaded already."""
        return self.content

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The harness' task objects by name; those of a group one by one."""
        found: Mapping[str, Any] = self.content["tasks"]
        return found

    def fingerprint(self) -> str:
        """Return a hash of the tasks' configurations, their functions' source and their data."""
        return hash_json([[name, _described(task)] for name, task in sorted(self.tasks.items())])


def _described(task: Any) -> list[Any]:
    data = getattr(task, "dataset", None)
    splits = data.items() if isinstance(data, Mapping) else ()
    config = _ADDRESS.sub("", repr(task.dump_config()))
    return [str(task.VERSION), config, {str(name): getattr(split, "_fingerprint", "") for name, split in splits}]


@dataclass(frozen=True, slots=True)
class TaskIndex:
    """All tasks that the harness finds by name."""

    manager: Any

    @classmethod
    def read(
        cls, include_path: Path | None = None, metadata: Mapping[str, Any] | None = None, *, stock: bool = True
    ) -> TaskIndex:
        """Read the task files of a folder and, if ``stock``, the harness' own 14,000, which takes many seconds.

        Raises:
            UserError: If the harness is not installed, or the folder is not there.
        """
        require_harness()
        from lm_eval.tasks import TaskManager

        if include_path is not None and not include_path.is_dir():
            raise UserError(f"include_path {str(include_path)!r} is no folder; give one with task files in YAML")
        path = None if include_path is None else str(include_path)
        return cls(TaskManager(include_path=path, metadata=metadata, include_defaults=stock))

    def match(self, names: Sequence[str]) -> list[str]:
        """Return the tasks, groups and tags that names or patterns such as ``xnli_*`` mean, each once.

        Raises:
            UserError: If a name means none, or there is no name.
        """
        if not names:
            raise UserError("--tasks names no task of lm-evaluation-harness; 'lm-eval ls tasks' lists them")
        found: dict[str, None] = {}
        for name in names:
            matches = self.manager.match_tasks([name])
            if not matches:
                raise self.unknown(name)
            found |= dict.fromkeys(matches)
        return list(found)

    def is_task(self, name: str) -> bool:
        """Whether a name is that of one task, whose file says all of it."""
        entry = self.manager.task_index.get(name)
        return entry is not None and entry.kind.name in ("TASK", "PY_TASK")

    def unknown(self, name: str) -> UserError:
        """Return what is said of a name that is no task."""
        return UserError(
            f"unknown task {name!r} of lm-evaluation-harness {installed_version('lm-eval')}"
            f"{closest_hint(name, self.manager.all_tasks)}; 'lm-eval ls tasks' lists its tasks, and include_path names "
            "a folder with more"
        )

    def load(self, name: str, *, allow_unsafe: bool = False) -> LoadedTask:
        """Load a task, group or tag with its documents.

        Args:
            name: From ``match``.
            allow_unsafe: Whether tasks that run generated code are taken.

        Raises:
            UserError: If its data cannot be had, it needs a package that is not installed, is damaged, asks for images,
                or runs generated code that is not allowed.
        """
        try:
            content = self.manager.load([name])
        except ImportError as error:
            raise UserError(
                f"task {name!r} needs a Python package that is not installed: {one_line(error)}; install it"
            ) from error
        except (LookupError, TypeError, AttributeError, AssertionError, jinja2.TemplateError) as error:
            raise UserError(
                f"task {name!r} cannot be read: {type(error).__name__}: {one_line(error)}; correct its YAML file, or "
                "use a version of lm-eval that has it"
            ) from error
        except Exception as error:  # of datasets, its readers, the hub and the network
            raise UserError(
                f"the data of task {name!r} cannot be loaded: {type(error).__name__}: {one_line(error)}; connect once "
                "so that datasets keeps it in its cache, or give include_path with a copy of the task whose "
                "dataset_path is local"
            ) from error
        loaded = LoadedTask(name, content, self.manager.task_index)
        for fault in _faults(loaded, allow_unsafe=allow_unsafe):
            raise UserError(fault)
        return loaded


def _faults(loaded: LoadedTask, *, allow_unsafe: bool) -> Iterator[str]:
    for name, task in loaded.tasks.items():
        if getattr(task, "MULTIMODAL", False):
            yield f"task {name!r} asks about images, which our engine does not take; leave it out"
        if getattr(task, "UNSAFE_CODE", False) and not allow_unsafe:
            yield f"task {name!r} runs code that the model writes; give --confirm_run_unsafe_code if you accept that"


@dataclass(frozen=True, slots=True)
class FoundTask:
    """A task, group or tag of the harness."""

    index: TaskIndex
    name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its file says; nothing of a tag."""
        return getattr(self.index.manager.task_index.get(self.name), "cfg", None) or {}

    def load(self) -> Mapping[str, Any]:
        """Return it, or all tasks of the group, with documents.

        Raises:
            UserError: If one cannot be loaded, or asks what no cell holds.
        """
        tasks = self.index.load(self.name).tasks
        for name, task in tasks.items():
            _refuse_kind(name, task.OUTPUT_TYPE, group=None if name == self.name else self.name)
        return tasks


class TaskFinder:
    """Finds tasks of the configuration in the harness; the files that name them are read once per folder."""

    def __init__(self) -> None:
        self._indexes: dict[tuple[Path | None, bool], TaskIndex] = {}

    def find(self, asked: HarnessTask) -> dict[str, FoundTask]:
        """Return the harness' tasks by language; reads no documents.

        Raises:
            UserError: If the harness is not installed, has no such task, or the task generates text.
        """
        found = {}
        for language in asked.languages:
            found[language] = task = self._find(asked.include_path, asked.names(language))
            _refuse_kind(task.name, task.settings.get("output_type", "multiple_choice"))
        return found

    def _find(self, folder: Path | None, names: Sequence[str]) -> FoundTask:
        """Return the first name that is a task in a folder's files, or anything in all files."""
        if folder is not None:
            own = self._index(folder, stock=False)
            for name in names:
                if own.is_task(name):
                    return FoundTask(own, name)
        index = self._index(folder, stock=True)
        for name in names:
            if name in index.manager.all_tasks:
                return FoundTask(index, name)
        raise index.unknown(names[0])

    def _index(self, folder: Path | None, *, stock: bool) -> TaskIndex:
        key = (folder, stock)
        if key not in self._indexes:
            self._indexes[key] = TaskIndex.read(folder, stock=stock)
        return self._indexes[key]


def _refuse_kind(name: str, output_type: str, *, group: str | None = None) -> None:
    said = f"task {name!r} of lm-evaluation-harness" + (f", in the group {group!r}," if group else "")
    if output_type == "generate_until":
        raise UserError(f"{said} generates text, which no cell can hold; 'grid lm-eval' runs it")
    if output_type not in KINDS:
        raise UserError(f"{said} has output_type {output_type!r}, and a cell takes {list(KINDS)}")
