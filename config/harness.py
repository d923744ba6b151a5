"""Tasks of lm-evaluation-harness in ``tasks``: ``{lm_eval: "xnli_{language}", languages: [sw, hi]}``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from transfergrid.config.values import LocalPath, Section
from transfergrid.grid import LANGUAGES, TASKS, Grid

_LANGUAGE = "{language}"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class HarnessTask(Section):
    """A task of lm-evaluation-harness."""

    lm_eval: str
    """Its name there, with ``{language}`` for the language; without that, a group whose tasks end in ``_LANGUAGE``, or
    one task in one language. The tasks of a group are asked together."""
    languages: dict[str, str] = Field(min_length=1)
    """Codes; where the harness writes another one, ``{sw: swh_Latn}``."""
    include_path: LocalPath | None = None
    """Folder with task files of your own, relative to this file."""
    train: bool = True
    """Whether adapters are trained on it; false: it is only a target."""
    metric: str | None = None
    """The harness' metric that is the score; without it acc_norm, else acc, else what the task reports."""

    @field_validator("lm_eval")
    @classmethod
    def _only_the_language_is_replaced(cls, name: str) -> str:
        if not name or set("{}") & set(name.replace(_LANGUAGE, "")):
            raise ValueError(f"{name!r} cannot be filled in; only {_LANGUAGE} is replaced in a task's name")
        if set("*?[]") & set(name):
            raise ValueError(f"{name!r} is a pattern; name one task or group; {_LANGUAGE} may stand in it")
        return name

    @field_validator("languages", mode="before")
    @classmethod
    def _from_list(cls, languages: Any) -> Any:
        if not isinstance(languages, list | tuple):
            return languages
        if repeated := [code for code in languages if languages.count(code) > 1]:
            raise ValueError(f"{repeated[0]!r} stands there twice; name each once")
        return {code: code for code in languages}

    def names(self, language: str) -> tuple[str, ...]:
        """Return the names that the task of a language may have in the harness, the first one that exists is meant."""
        code = self.languages[language]
        if _LANGUAGE in self.lm_eval:
            return (self.lm_eval.replace(_LANGUAGE, code),)
        return (f"{self.lm_eval}_{code}", *([self.lm_eval] if len(self.languages) == 1 else []))


def take_harness_tasks(raw: Any) -> Any:
    """Return settings with the tasks of the harness moved from ``tasks`` to ``harness_tasks``, under their names.

    Raises:
        ValueError: If two tasks have one name, or an entry names no task.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("tasks", []), list | tuple):
        return raw
    found, names = dict(raw.get("harness_tasks") or {}), []
    for entry in raw.get("tasks", []):
        if not isinstance(entry, Mapping):
            names.append(entry)
            continue
        name, task = _named(entry)
        if name in found:
            raise ValueError(f"two tasks are named {name!r}; give one of them another name with 'as'")
        found[name] = task
        names.append(name)
    if not found:
        return raw
    languages = raw.get("languages", LANGUAGES)
    filled = {name: _with_languages(task, languages) for name, task in found.items()}
    return {**raw, **({"tasks": names} if names else {}), "harness_tasks": filled}


def _with_languages(task: Any, languages: Any) -> Any:
    return {"languages": languages, **task} if isinstance(task, Mapping) else task


def _named(entry: Mapping[Any, Any]) -> tuple[str, dict[Any, Any]]:
    """Return the name and settings of an entry; ``lm_eval`` and ``as`` are told apart by ``{language}``."""
    lm_eval, name = entry.get("lm_eval"), entry.get("as")
    if not isinstance(lm_eval, str) or not isinstance(name, str | None):
        expected = "expected a name or {lm_eval: NAME, languages: [...]}"
        raise ValueError(f"the entry {dict(entry)!r} of tasks names no task; {expected}")
    if name is not None and _LANGUAGE in name:
        lm_eval, name = name, lm_eval
    if name is None:
        name = re.sub(r"[^a-z0-9]+", "_", lm_eval.replace(_LANGUAGE, "").lower()).strip("_")
    return name, {**{key: value for key, value in entry.items() if key != "as"}, "lm_eval": lm_eval}


def check_names(names: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Refuse names of tasks that the grid cannot use.

    Raises:
        ValueError: If one is that of a built-in or custom task, or would not fit into file names.
    """
    for name in names:
        if name in TASKS or name in others:
            raise ValueError(f"there is another task {name!r}; give the harness' task a name of its own with 'as'")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"task name {name!r} is not usable; give one with 'as': lower-case letters, digits and underscores, "
                "starting with a letter"
            )


def make_grid(tasks: tuple[str, ...], languages: tuple[str, ...], own: Mapping[str, HarnessTask]) -> Grid:
    """Return the grid of some tasks, of which some have languages of their own or are targets only."""
    return Grid(
        tasks,
        languages,
        {name: tuple(task.languages) for name, task in own.items()},
        frozenset(name for name, task in own.items() if not task.train),
    )
