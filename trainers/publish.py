"""What others need of an adapter: a model card beside its weights, and its files in a repository of the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table
from rich.text import Text

from transfergrid.config.selection import Selection
from transfergrid.engine.adapters.folder import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.record import read_record

CARD_FILE = "README.md"

_CARD = """\
# {model} s{seed} {cell}

A LoRA adapter for `{base}`{revision}, trained by [transfergrid](https://arxiv.org/abs/2511.13368)'s recipe on the train items of the cell `{cell}`.

| | |
|---|---|
| data | {source}; {data[n_train]} items trained on, {data[n_validation]} for choosing the epoch; hash `{data[hash]}` |
| LoRA | rank {lora[r]}, alpha {lora[alpha]}, dropout {lora[dropout]}, on {modules} |
| recipe | AdamW, rate {training[learning_rate]}, {training[schedule]} schedule, warm-up {training[warmup_ratio]}, {training[epochs]} epochs, {batch} examples a step, seed {seed}, base in {dtype} |
| validation loss, nats a token | {before:.4f} of the base, {after:.4f} after epoch {epoch}, which was kept |
| work | {n_tokens:,} tokens, {n_steps} steps, {seconds:.1f} s ({rate:,.0f} tokens/s, {at_once} adapter(s) in the pass) |

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base!r}{load_revision})
model = PeftModel.from_pretrained(base, "THIS FOLDER OR REPOSITORY")
```

`{record}` has the whole recipe, the loss of every step and the versions of all packages. Content hash `{content_hash}`.
"""  # noqa: E501 - rows of a table


def adapter_card(record: Mapping[str, Any], adapter_config: Mapping[str, Any]) -> str:
    """Return an adapter's model card in Markdown, with the hub's tags.

    Args:
        record: What ``training.json`` says.
        adapter_config: What ``adapter_config.json`` says; it names the base as others find it.
    """
    from huggingface_hub import ModelCardData

    base, revision = adapter_config["base_model_name_or_path"], adapter_config.get("revision")
    config, resolved, is_on_hub = record["config"], record["resolved"], revision is not None
    tags = ["lora", "transformers", "transfergrid", *([f"base_model:adapter:{base}"] if is_on_hub else [])]
    head = ModelCardData(
        base_model=base if is_on_hub else None,
        language=record["cell"].rpartition("-")[2],
        library_name="peft",
        pipeline_tag="text-generation",
        tags=tags,
    )
    body = _CARD.format(
        **{name: record[name] for name in ("model", "seed", "cell", "data", "n_tokens", "n_steps", "content_hash")},
        base=base,
        revision=f" at revision `{revision}`" if is_on_hub else "",
        load_revision=f", revision={revision!r}" if is_on_hub else "",
        source=f"{config['data']['source']} items",
        lora=config["lora"],
        modules=", ".join(config["lora"]["target_modules"]),
        training=config["training"],
        batch=resolved["batch_size"] * resolved["gradient_accumulation"],
        dtype=resolved["dtype"],
        before=record["untrained_validation_loss"],
        after=record["best_validation_loss"],
        epoch=record["best_epoch"],
        seconds=record["train_s"],
        rate=record["tokens_per_s"],
        at_once=resolved.get("adapters_at_once", 1),
        record=RECORD_FILE,
    )
    return f"---\n{head.to_yaml()}\n---\n{body}"


@dataclass(frozen=True)
class PushReport:
    """Where adapters went."""

    pushed: tuple[tuple[str, str], ...]
    """Adapter and address of its repository."""

    def __rich__(self) -> Table:
        """Render one row per adapter."""
        table = Table("adapter", "repository", title="Pushed")
        for name, address in self.pushed:
            table.add_row(Text(name), Text(address, overflow="fold"))
        return table

    def rows(self) -> pl.DataFrame:
        """Return one row per adapter."""
        return pl.DataFrame(self.pushed, schema={"adapter": pl.String, "repository": pl.String}, orient="row")

    def as_json(self) -> list[dict[str, Any]]:
        """Return one object per adapter."""
        return self.rows().to_dicts()


def push_adapters(
    run: RunFolder,
    selection: Selection,
    account: str,
    *,
    is_public: bool = False,
    on_pushed: Callable[[str], None] = lambda _: None,
) -> PushReport:
    """Push the finished adapters of a selection to a hub account, each into ``ACCOUNT/MODEL-sSEED-TASK-LANG``.

    A repository that has the same files already gets no new commit, so that the same call goes on where it stopped.

    Args:
        run: The run folder.
        selection: Models, seeds and source cells.
        account: User or organisation on the hub; the token is the one that huggingface_hub finds.
        is_public: Whether repositories that are made now are open to all.
        on_pushed: Called with the name of every adapter that is there.

    Raises:
        UserError: If there is no finished adapter, or the hub refuses or cannot be reached.
    """
    places = {
        f"{model.name}-s{seed}-{cell.name}": run.adapter(model.name, seed, cell)
        for model in selection.models
        for seed in selection.seeds
        for cell in selection.source_cells
    }
    records = {name: record for name, folder in places.items() if (record := read_record(folder)) is not None}
    if not records:
        raise UserError(
            f"no finished adapter of this selection under {str(run.adapters)!r}; 'grid train-adapters' makes them"
        )
    pushed = []
    for name, record in records.items():
        pushed.append((name, _push(places[name], record, f"{account}/{name}", is_public=is_public)))
        on_pushed(name)
    return PushReport(tuple(pushed))


def _push(folder: Path, record: Mapping[str, Any], repository: str, *, is_public: bool) -> str:
    """Push one adapter and return its address; the record goes without the folder that the base was read from."""
    import httpx2
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    resolved = {name: value for name, value in record["resolved"].items() if name != "model_folder"}
    texts = {
        CARD_FILE: adapter_card(record, config),
        RECORD_FILE: json.dumps({**record, "resolved": resolved}, indent=2, sort_keys=True) + "\n",
    }
    api = HfApi()
    try:
        address = api.create_repo(repository, private=not is_public, exist_ok=True)
        api.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)),
                *(CommitOperationAdd(name, text.encode()) for name, text in texts.items()),
            ],
            commit_message=f"Adapter {record['content_hash'][:12]}",
        )
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{repository!r} cannot be pushed to {api.endpoint}: {reason:.300}; check the account, and log in with "
            "'hf auth login' or set HF_TOKEN to a token that may write"
        ) from error
    return str(address)
