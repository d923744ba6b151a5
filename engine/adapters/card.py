"""The model card of an adapter: what it is, how it was made, how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

CARD_FILE = "README.md"

_CARD = """\
# {model} s{seed} {source}

A LoRA adapter for `{base}`{revision}, made by transfergrid of the train items of {cells}.

| | |
|---|---|
{rows}

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base!r}{load_revision})
model = PeftModel.from_pretrained(base, "THIS FOLDER OR REPOSITORY")
```

`training.json` has all settings and the versions of all packages. Content hash `{content_hash}`.
"""


def adapter_card(record: Mapping[str, Any], adapter_config: Mapping[str, Any]) -> str:
    """Return an adapter's model card in Markdown, with the hub's tags.

    Args:
        record: What ``training.json`` says.
        adapter_config: What ``adapter_config.json`` says; it names the base as others find it.
    """
    from huggingface_hub import ModelCardData

    base, revision = adapter_config["base_model_name_or_path"], adapter_config.get("revision")
    cells, is_on_hub = record.get("cells") or [record["cell"]], revision is not None
    head = ModelCardData(
        base_model=base if is_on_hub else None,
        language=sorted({cell.rpartition("-")[2] for cell in cells}),
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", "transformers", "transfergrid", *([f"base_model:adapter:{base}"] if is_on_hub else [])],
    )
    rows = _rows_of_training(record) if "config" in record else _rows_of_merge(record)
    body = _CARD.format(
        **{name: record[name] for name in ("model", "seed", "content_hash")},
        source=record.get("source") or record["cell"],
        base=base,
        revision=f" at revision `{revision}`" if is_on_hub else "",
        load_revision=f", revision={revision!r}" if is_on_hub else "",
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
