"""Variants: the same sources trained by other recipes, beside the run's main one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from transfergrid.config.lora import LoraConfig
from transfergrid.config.sources import Recipe
from transfergrid.config.training import OF_THE_BASE, UNDECISIVE, TrainingConfig
from transfergrid.config.values import Section
from transfergrid.grid import VARIANT_KIND, VARIANT_MARK, Source
from transfergrid.wording import closest_hint

Sections = Mapping[str, Section]
"""The sections that a variant may change, by name."""
AnySection = TypeVar("AnySection", bound=Section)
MAIN = "main"
"""What tables call the recipe that is no variant."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,19}")


class VariantPrompts(Section):
    """The prompts of a variant's training; its adapters are scored as all others are."""

    train_format: Literal["train", "eval"] = "train"
    """Format of training examples."""
    train_chat_template: bool = False
    """Wrap training prompts in the model's chat template."""


class VariantConfig(Section):
    """Another recipe: what it changes; what is not given is as in the main recipe."""

    lora: LoraConfig = LoraConfig()
    """Keys of ``lora`` that differ."""
    training: TrainingConfig = TrainingConfig()
    """Keys of ``training`` that differ."""
    prompts: VariantPrompts = VariantPrompts()
    """``train_format`` and ``train_chat_template`` where they differ."""
    of: tuple[str, ...] | None = None
    """What is trained by it: names of cells and mixtures; null: every cell."""

    def changed(self, main: Sections) -> dict[str, Section]:
        """Return the sections of the main recipe with this variant's changes."""
        return {name: _with_changes(section, getattr(self, name)) for name, section in main.items()}


def _with_changes(section: AnySection, change: Section) -> AnySection:
    return section.model_copy(update={name: getattr(change, name) for name in change.model_fields_set})


def read_variants(
    variants: Mapping[str, VariantConfig], main: Sections, trained: Sequence[Recipe], tasks: Sequence[str]
) -> tuple[Recipe, ...]:
    """Return the sources that variants add, variant by variant.

    Args:
        variants: The configuration's, by name.
        main: Sections of the main recipe.
        trained: What the main recipe trains: cells and mixtures.
        tasks: All that ``training.max_length`` may name.

    Raises:
        ValueError: If one cannot be made; names all faults.
    """
    faults: list[str] = []
    found: list[Recipe] = []
    recipes = {MAIN: _decisive(main)}
    for name, variant in variants.items():
        own = [*_faults(name, variant, tasks), *_unknown_sources(variant, [each.source.name for each in trained])]
        recipe = _decisive(variant.changed(main))
        if same := next((other for other, known in recipes.items() if known == recipe), None):
            own.append(f"it trains as {same!r} does; change 'lora', 'training' or 'prompts'")
        recipes[name] = recipe
        faults += [f"{name}: {fault}" for fault in own]
        if not own:
            wanted = [each for each in trained if _is_of(variant, each.source)]
            found += [Recipe(_source(each.source, name), each.budget) for each in wanted]
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(found)


def _source(main: Source, variant: str) -> Source:
    return Source(VARIANT_KIND, f"{main.name}{VARIANT_MARK}{variant}", main.cells, variant=variant)


def _is_of(variant: VariantConfig, source: Source) -> bool:
    return source.cell is not None if variant.of is None else source.name in variant.of


def _decisive(sections: Sections) -> dict[str, Any]:
    """Return what of a recipe decides an adapter's weights."""
    return {name: section.model_dump(exclude=set(UNDECISIVE)) for name, section in sections.items()}


def _faults(name: str, variant: VariantConfig, tasks: Sequence[str]) -> Iterator[str]:
    if not _NAME.fullmatch(name) or name == MAIN:
        yield (
            f"the name is not usable; expected at most 20 lower-case letters, digits, '_' and '-', and not {MAIN!r}, "
            "which is the recipe without a name"
        )
    for key in sorted(variant.training.model_fields_set & OF_THE_BASE):
        yield f"training.{key} is the base's, which all variants share; set it in 'training' of the configuration"
    if "max_length" in variant.training.model_fields_set:
        for task in variant.training.max_length:
            if task not in tasks:
                yield f"training.max_length names the unknown task {task!r}; expected some of {list(tasks)}"


def _unknown_sources(variant: VariantConfig, known: Sequence[str]) -> Iterator[str]:
    if variant.of == ():
        yield "'of' is empty; name cells or mixtures, or leave it out for every cell"
    for name in dict.fromkeys(variant.of or ()):
        if name not in known:
            yield f"unknown source {name!r} in 'of'; expected some of {list(known)}{closest_hint(name, known)}"
        elif variant.of and variant.of.count(name) > 1:
            yield f"source {name!r} stands in 'of' twice; name each once"
