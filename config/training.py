"""How adapters are trained: their shape, the recipe, and variants of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from transfergrid.config.values import (
    MAX_LORA_RANK,
    NUMBER,
    AsGiven,
    AutoOrPositive,
    Dtype,
    Fraction,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
)
from transfergrid.grid import VARIANT_KIND, VARIANT_MARK, Source
from transfergrid.wording import closest_hint

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers that get LoRA in the study."""


class LoraConfig(Section):
    """Shape of the adapters."""

    r: Annotated[int, Field(ge=1, le=MAX_LORA_RANK), NUMBER] = 32
    """LoRA rank; vLLM serves at most 512."""
    alpha: PositiveInt = 64
    """Numerator of the scale: a layer adds (alpha / r) B A x."""
    dropout: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.0
    """Dropout on the input of A while training."""
    target_modules: tuple[str, ...] = Field(default=TARGET_MODULES, min_length=1)
    """Linear layers that get LoRA."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r."""


UNDECISIVE = frozenset({"report_to", "gradient_checkpointing", "adapters_at_once"})
"""Settings that do not decide an adapter's weights: where numbers are logged, memory, adapters in one pass."""
OF_THE_BASE = frozenset({"dtype", "quantization"})
"""Settings that say how the base is loaded."""


class TrainingConfig(Section):
    """How one adapter is trained."""

    method: Literal["lora", "full"] = "lora"
    """Train LoRA adapters, or all weights of the model: 20 bytes of memory a weight, and a whole model on disk each."""
    learning_rate: PositiveFloat = 5e-5
    """Highest learning rate of AdamW."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.1
    """Share of all steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0), NUMBER] = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    epochs: PositiveInt = 3
    """Upper bound; the epoch with the lowest validation loss is kept."""
    batch_size: PositiveInt = 8
    """Examples per step; halved, with accumulation doubled, when memory runs out."""
    gradient_accumulation: PositiveInt = 1
    """Steps whose gradients are added before the weights move."""
    validation_fraction: Fraction = 0.1
    """Share of the train items held out for choosing the epoch."""
    validation_seed: Seed = 42
    """Seed of that split, whatever the training seed."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after this many epochs without a lower validation loss; null trains all epochs."""
    max_length: dict[str, PositiveInt] = {
        "arc_challenge": 256,
        "global_mmlu": 512,
        "hellaswag": 512,
        "truthfulqa": 128,
    }
    """Longest training example per task, in tokens; other tasks: 512."""
    truncation: Literal["refuse", "left"] = "left"
    """Example too long: refuse the adapter, or cut the prompt on the left and count it; never the answer."""
    supervise_end_token: bool = False
    """Train on the end-of-text token after the answer too."""
    dtype: Dtype = "auto"
    """Number format of the base; ``auto``: bfloat16 (the study's) where native, else float32."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Load the base quantised by bitsandbytes (GPU only)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    adapters_at_once: AutoOrPositive = "auto"
    """Adapters trained in one pass over the base; ``auto``: as memory and measured speed allow, at most 16."""
    report_to: tuple[str, ...] = ()
    """Experiment trackers of transformers' Trainer, for example ``wandb`` or ``mlflow``."""

    @model_validator(mode="after")
    def _can_be_trained(self) -> TrainingConfig:
        if self.method == "full" and self.quantization is not None:
            raise ValueError(f"method 'full' trains what quantization {self.quantization!r} freezes; drop one of them")
        return self


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


class VariantConfig(AsGiven):
    """Another recipe: what it changes; what is not given is as in the main recipe."""

    lora: LoraConfig = LoraConfig()
    """Keys of ``lora`` that differ."""
    training: TrainingConfig = TrainingConfig()
    """Keys of ``training`` that differ."""
    prompts: VariantPrompts = VariantPrompts()
    """``train_format`` and ``train_chat_template`` where they differ."""
    of: tuple[str, ...] | None = None
    """What is trained by it: names of cells and mixtures; null: every cell."""

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = {name: value for name, value in dump(self).items() if name in self.model_fields_set}
        for name in found.keys() - {"of"}:
            given = getattr(self, name).model_fields_set
            found[name] = {key: value for key, value in found[name].items() if key in given}
        return found

    def changed(self, main: Sections) -> dict[str, Section]:
        """Return the sections of the main recipe with this variant's changes."""
        return {name: _with_changes(section, getattr(self, name)) for name, section in main.items()}


def _with_changes(section: AnySection, change: Section) -> AnySection:
    return section.model_copy(update={name: getattr(change, name) for name in change.model_fields_set})


def read_variants(
    variants: Mapping[str, VariantConfig], main: Sections, trained: Sequence[Source], tasks: Sequence[str]
) -> dict[Source, Source]:
    """Return the sources that variants add, variant by variant, each with that of the main recipe.

    Args:
        variants: The configuration's, by name.
        main: Sections of the main recipe.
        trained: What the main recipe trains: cells and mixtures.
        tasks: All that ``training.max_length`` may name.

    Raises:
        ValueError: If one cannot be made; names all faults.
    """
    faults: list[str] = []
    found: dict[Source, Source] = {}
    recipes = {MAIN: _decisive(main)}
    for name, variant in variants.items():
        changed = variant.changed(main)
        own = [*_faults(name, variant, tasks), *_unknown_sources(variant, [source.name for source in trained])]
        try:
            TrainingConfig.model_validate(changed["training"].model_dump())
        except ValidationError as error:
            own += [fault["msg"].removeprefix("Value error, ") for fault in error.errors()]
        recipe = _decisive(changed)
        if same := next((other for other, known in recipes.items() if known == recipe), None):
            own.append(f"it trains as {same!r} does; change 'lora', 'training' or 'prompts'")
        recipes[name] = recipe
        faults += [f"{name}: {fault}" for fault in own]
        if not own:
            found |= {_source(source, name): source for source in trained if _is_of(variant, source)}
    if faults:
        raise ValueError("; ".join(faults))
    return found


def _source(main: Source, variant: str) -> Source:
    return Source(VARIANT_KIND, f"{main.name}{VARIANT_MARK}{variant}", main.cells, variant=variant)


def _is_of(variant: VariantConfig, source: Source) -> bool:
    return source.cell is not None if variant.of is None else source.name in variant.of


def _decisive(sections: Sections) -> dict[str, Any]:
    """Return what of a recipe decides an adapter's weights."""
    found = {name: section.model_dump(exclude=set(UNDECISIVE)) for name, section in sections.items()}
    return {**found, "lora": None} if found["training"]["method"] == "full" else found


def _faults(name: str, variant: VariantConfig, tasks: Sequence[str]) -> Iterator[str]:
    if not _NAME.fullmatch(name) or name == MAIN:
        yield (
            f"the name is not usable; expected at most 20 lower-case letters, digits, '_' and '-', and not {MAIN!r}, "
            "which is the recipe without a name"
        )
    if variant.training.method == "full" and variant.lora.model_fields_set:
        yield "training.method 'full' trains all weights and reads nothing of 'lora'; drop one of them"
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
