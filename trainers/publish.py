"""A run's adapters in repositories of the hub."""

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
from transfergrid.engine.adapters.card import CARD_FILE, adapter_card
from transfergrid.engine.adapters.folder import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE
from transfergrid.grid import VARIANT_MARK, UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.json_text import read_json
from transfergrid.trainers.record import read_record
from transfergrid.wording import one_line


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
    """Push the finished adapters of a selection to a hub account, each into ``ACCOUNT/MODEL-sSEED-SOURCE``.

    The name of a variant's repository ends in ``SOURCE-VARIANT``, since the hub takes no ``@``.
    A repository that has the same files already gets no new commit, so that the same call goes on where it stopped.

    The token is the one that huggingface_hub finds.

    Raises:
        UserError: If there is no finished adapter, or the hub refuses or cannot be reached.
    """
    places = {
        f"{model.name}-s{seed}-{source.name.replace(VARIANT_MARK, '-')}": run.adapter(model.name, seed, source)
        for model in selection.models
        for seed in selection.seeds
        for source in selection.sources
        if not source.is_base
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

    config = read_json(folder / CONFIG_FILE)
    resolved = {name: value for name, value in record.get("resolved", {}).items() if name != "model_folder"}
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
        raise UserError(
            f"{repository!r} cannot be pushed to {api.endpoint}: {one_line(error)}; check the account, and log in with "
            "'hf auth login' or set HF_TOKEN to a token that may write"
        ) from error
    return str(address)
