"""The model card of an adapter: what it is, how it was made, how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transfergrid.engine.adapters.full import is_full

CARD_FILE = "README.md"

_CARD = """\
# {model} s{seed} {source}

{what} `{base}`{revision}, made by transfergrid of the train items of {cells}.

| | |
|---|---|
{rows}

```python
{code}
```

`training.json` has all settings and the versions of all packages. Content hash `{content_hash}`.
"""

_LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base!r}{revision})
model = PeftModel.from_pretrained(base, "THIS FOLDER OR REPOSITORY")"""
_LOAD_FULL = """\
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({base!r}{revision})
model.load_state_dict(load_file("THIS FOLDER/adapter_model.safetensors"), strict=False)  # tied weights once"""


def adapter_card(record: Mapping[str, Any], adapter_config: Mapping[str, Any]) -> str:
    """Return an adapter's model card in Markdown, with the hub's tags.

    ``adapter_config`` is its peft configuration, which names the base as others find it.
    """
    from huggingface_hub import ModelCardData

    base, revision = adapter_config["base_model_name_or_path"], adapter_config.get("revision")
    cells, is_on_hub = record.get("cells") or [record["cell"]], revision is not None
    full = is_full(adapter_config)
    relation = "finetune" if full else "adapter"
    head = ModelCardData(
        base_model=base if is_on_hub else None,
        language=sorted({cell.rpartition("-")[2] for cell in cells}),
        library_name="transformers" if full else "peft",
        pipeline_tag="text-generation",
        tags=[
            *([] if full else ["lora"]),
            *("transformers", "transfergrid"),
            *([f"base_model:{relation}:{base}"] if is_on_hub else []),
        ],
    )
    rows = _rows_of_training(record) if "config" in record else _rows_of_merge(record)
    at = f", revision={revision!r}" if is_on_hub else ""
    body = _CARD.format(
        what="A full fine-tune (all weights) of" if full else "A LoRA adapter for",
        code=(_LOAD_FULL if full else _LOAD_ADAPTER).format(base=base, revision=at),
        **{name: record[name] for name in ("model", "seed", "content_hash")},
        source=record.get("source") or record["cell"],
        base=base,
        revision=f" at revision `{revision}`" if is_on_hub else "",
        cells=", ".join(f"`{cell}`" for cell in cells),
        rows="\n".join(f"| {name} | {text} |" for name, text in rows),
    )
    return f"---\n{head.to_yaml()}\n---\n{body}"


def _rows_of_training(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    config, resolved, data = record["config"], record["resolved"], record["data"]
    lora, training = config["lora"], config["training"]
    n_examples = resolved["batch_size"] * resolved["gradient_accumulation"]
    yield (
        "data",
        f"{config['data']['source']} items: {data['n_train']} trained on, {data['n_validation']} for choosing the "
        f"epoch; hash `{data['hash']}`",
    )
    modules = ", ".join(lora["target_modules"])
    if training.get("method") == "full":
        yield "method", "full fine-tuning in float32, saved in the number format of the base"
    else:
        yield "LoRA", f"rank {lora['r']}, alpha {lora['alpha']}, dropout {lora['dropout']}, on {modules}"
    yield (
        "recipe",
        f"AdamW, rate {training['learning_rate']}, {training['schedule']} schedule, warm-up "
        f"{training['warmup_ratio']}, at most {training['epochs']} epochs, {n_examples} examples a step, base in "
        f"{resolved['dtype']}",
    )
    yield (
        "validation loss, nats a token",
        f"{record['untrained_validation_loss']:.4f} of the base, {record['best_validation_loss']:.4f} after epoch "
        f"{record['best_epoch']}, which was kept",
    )
    yield (
        "work",
        f"{record['n_tokens']:,} tokens, {record['n_steps']} steps, {record['train_s']:.1f} s, "
        f"{resolved.get('adapters_at_once', 1)} at once",
    )


def _rows_of_merge(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    merge = record["key"]["merge"]
    yield "method", f"{merge['method']}, weights {merge['weights']}, density {merge['density']}"
    for name, content_hash in record["key"]["of"].items():
        yield f"part {name}", f"content hash `{content_hash}`"
