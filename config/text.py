"""The configuration as text: the commented file of ``grid init`` and the reference of the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from transfergrid.config.harness import HarnessTask
from transfergrid.config.settings import (
    BUNDLED_MODEL,
    DataConfig,
    EngineConfig,
    GridConfig,
    ModelConfig,
)
from transfergrid.config.sources import Axis, SourceConfig
from transfergrid.config.training import LoraConfig, TrainingConfig, VariantConfig, VariantPrompts
from transfergrid.grid import UserError
from transfergrid.store.files import write_text

PAPER_MODELS = (
    "meta-llama/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-3.2-3B-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen2.5-3B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "google/gemma-3-1b-it",
    "google/gemma-3-4b-it",
)
"""Hub ids of the nine models of the study."""

_LANGUAGES = ("de", "en", "es")
_PAIRS: Axis = {"task": "arc_challenge"}
_LONG = {**TrainingConfig().max_length, "truthfulqa": 512}
"""A Bengali answer of the bundled items takes more than the study's 128 tokens under the bundled model's tokenizer."""

PRESETS = {
    "default": GridConfig(),
    "quickstart": GridConfig(
        seeds=(17,),
        tasks=("arc_challenge", "hellaswag"),
        languages=_LANGUAGES,
        training=TrainingConfig(learning_rate=5e-4, epochs=1, batch_size=4),
        variants={
            "matched": VariantConfig(
                prompts=VariantPrompts(train_format="eval", train_chat_template=True),
                training=TrainingConfig(epochs=4),
                of=("hellaswag-en",),
            )
        },
    ),
    "mixtures": GridConfig(
        seeds=(17,),
        tasks=("arc_challenge", "truthfulqa"),
        languages=_LANGUAGES,
        training=TrainingConfig(learning_rate=5e-4, epochs=4, batch_size=4),
        sources={
            "pair": SourceConfig(pairs_of=_PAIRS),
            "cat": SourceConfig(pairs_of=_PAIRS, method="cat"),
            "ties": SourceConfig(pairs_of=_PAIRS, method="ties"),
        },
        variants={
            "r8": VariantConfig(lora=LoraConfig(r=8, alpha=16)),
            "full": VariantConfig(training=TrainingConfig(method="full", learning_rate=2e-5), of=("arc_challenge-en",)),
        },
    ),
    "quickstart-full": GridConfig(
        seeds=(17,), training=TrainingConfig(learning_rate=5e-4, epochs=4, batch_size=4, max_length=_LONG)
    ),
    "paper": GridConfig(
        models=tuple(ModelConfig(path=path) for path in PAPER_MODELS),
        data=DataConfig(source="hub"),
        training=TrainingConfig(dtype="bfloat16"),
        engine=EngineConfig(dtype="bfloat16"),
    ),
}
"""Configurations that ``grid init`` can write, by name."""

_HEADS = {
    "default": "The study's recipe on the model and items that are installed with transfergrid; needs no network.",
    "quickstart": "Two tasks, three languages, a higher rate than the study's; one adapter is trained as it is scored.",
    "mixtures": "Two tasks, three languages; pairs of languages, trained together and merged in two ways; ranks; full.",
    "quickstart-full": "All 44 cells of the bundled items, a higher rate and more epochs than the study's.",
    "paper": "The study of arXiv 2511.13368: nine models, four data sets of the hub; needs a GPU and hub access.",
}


def _plain(value: Any) -> Any:
    """Return a value as YAML can hold it."""
    if isinstance(value, ModelConfig):
        named = ModelConfig(path=value.path)
        return value.path if value == named else value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    return str(value) if isinstance(value, Path) else value


def _yaml_value(value: Any) -> str:
    """Return a value as one line of YAML."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        comment = (field.description or "").replace("``", "'")
        yield from (f"{indent}# {line}" for line in comment.splitlines())
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
            yield ""
        elif name == "models":
            yield f"{indent}{name}:"
            yield from (f"{indent}  - {_yaml_value(model)}" for model in value)
        else:
            yield f"{indent}{name}: {_yaml_value(value)}"


def render_config(config: GridConfig, head: str) -> str:
    """Return a configuration as commented YAML that loads back to it.

    Args:
        config: What to write; every key is written out.
        head: One sentence for the top of the file.
    """
    usage = "Next: grid plan, grid data, grid train-adapters, grid eval."
    return "\n".join([f"# {head}", f"# {usage}", "", *_lines(config, "")]).rstrip() + "\n"


def write_preset(path: Path, preset: str, *, overwrite: bool = False) -> None:
    """Write a preset configuration.

    Raises:
        UserError: If the file exists and ``overwrite`` is not set, the preset is unknown, or it cannot be written.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; expected one of {sorted(PRESETS)}")
    try:
        if path.exists() and not overwrite:
            raise UserError(f"{str(path)!r} exists and is kept; give another --config, or --force to replace it")
        write_text(path, render_config(PRESETS[preset], _HEADS[preset]))
    except OSError as error:
        raise UserError(
            f"configuration {str(path)!r} cannot be written: {error.strerror}; give a --config in a folder that you "
            "may write to"
        ) from error


def ensure_preset(path: Path, preset: str) -> None:
    """Write a preset configuration if there is no file yet; an existing one stays as it is.

    Raises:
        UserError: If the preset is unknown or the file cannot be written.
    """
    if not path.exists():
        write_preset(path, preset)


def _accepted(schema: dict[str, Any]) -> str:
    """Return what a JSON schema accepts, in words."""
    if "anyOf" in schema:
        return " or ".join(_accepted(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_accepted(schema.get('items', {}))}"
    if schema.get("format") == "date":
        return "date"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:.10g}" for key, sign in bounds.items() if key in schema]
    names = {"object": "mapping", "string": "text", "boolean": "true or false", None: "model"}
    kind = schema.get("type")
    return " ".join([names.get(kind, str(kind)), ", ".join(limits)]).strip()


def _reference_rows(section: type[BaseModel], prefix: str) -> Iterator[str]:
    properties = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default = "required" if field.is_required() else f"`{_yaml_value(field.get_default())}`"
        description = " ".join((field.description or "").replace("``", "`").split())
        yield f"| `{prefix}{name}` | {_accepted(properties[name])} | {default} | {description} |"


def render_reference() -> str:
    """Return the configuration reference in Markdown, one table per section."""
    header = ["| key | accepts | default | meaning |", "|---|---|---|---|"]
    parts = [
        "# Configuration reference",
        "",
        "Written by `grid init --reference` from the configuration's own records.",
    ]
    parts += ["", "## Top level", "", *header, *_reference_rows(GridConfig, "")]
    parts += ["", "## A model", "", f"In `models`; a plain string such as `{BUNDLED_MODEL}` is its path.", "", *header]
    parts += _reference_rows(ModelConfig, "")
    parts += ["", "## A source", "", "In `sources`, by its name; exactly one of the first six keys.", "", *header]
    parts += _reference_rows(SourceConfig, "")
    parts += [
        "",
        "## A variant",
        "",
        "In `variants`, by its name: the keys of `lora` and `training` that differ, and",
        "",
    ]
    parts += [*header, *_reference_rows(VariantPrompts, "prompts."), *_reference_rows(VariantConfig, "")]
    parts += ["", "## A task of lm-evaluation-harness", "", "In `tasks` or `harness_tasks`; see [lm-eval](lm-eval.md)."]
    parts += ["", *header, *_reference_rows(HarnessTask, "")]
    for name, field in GridConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            doc = field.description or ""
            parts += ["", f"## {name}", "", doc, "", *header, *_reference_rows(field.annotation, f"{name}.")]
    return "\n".join(parts) + "\n"
