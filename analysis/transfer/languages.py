"""Codes, families and URIEL vectors of languages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pycountry

from transfergrid.analysis.arrays import FloatArray, IntArray
from transfergrid.grid import UserError

FEATURE_SETS = {"syntax_knn": "S_", "phonology_knn": "P_", "inventory_knn": "INV_"}
"""URIEL feature sets of the study, with the prefix of their features."""

UNKNOWN_FAMILY = "unknown"

LANGUAGE_FAMILIES = {
    "ar": "Afro-Asiatic",
    "bn": "Indo-Aryan",
    "de": "Germanic",
    "en": "Germanic",
    "es": "Romance",
    "fr": "Romance",
    "hi": "Indo-Aryan",
    "id": "Austronesian",
    "it": "Romance",
    "pt": "Romance",
    "zh": "Sino-Tibetan",
}
"""Families of the study's languages: Glottolog's top level, but Indo-European by branch."""

# URIEL has spoken languages where ISO 639-1 has a macrolanguage
_REPRESENTATIVES = {"zho": "cmn", "msa": "zsm", "fas": "pes", "nor": "nob", "swa": "swh", "aze": "azj", "uzb": "uzn"}
_INDO_EUROPEAN = "Indo-European"
_BRANCHES = ("Romance", "Indo-Aryan", "Iranian", "Germanic", "Balto-Slavic", "Celtic", "Graeco-Phrygian", "Armenic")


class UnknownLanguageError(UserError):
    """A language that ISO 639 or URIEL does not know."""


def iso639_3(code: str) -> str:
    """Return the ISO 639-3 code under which URIEL knows a language; script and region are dropped.

    Raises:
        UnknownLanguageError: If the code is not an ISO 639 language.
    """
    plain = code.partition("_")[0]
    found = pycountry.languages.get(**{"alpha_2" if len(plain) == 2 else "alpha_3": plain})
    if found is None:
        raise UnknownLanguageError(f"language {code!r} is not an ISO 639 code; expected one such as 'de' or 'deu'")
    return _REPRESENTATIVES.get(found.alpha_3, str(found.alpha_3))


def language_family(code: str) -> str:
    """Return a language's family: Glottolog's top level, Indo-European by branch, ``unknown`` where URIEL has none."""
    plain = code.partition("_")[0]
    known = LANGUAGE_FAMILIES.get(plain)
    return known if known is not None else derived_family(plain)


def derived_family(code: str) -> str:
    """Return the family that URIEL's Glottolog features give a language, by the rule of `LANGUAGE_FAMILIES`."""
    try:
        lineage = _lineages().get(iso639_3(code), ())
    except UnknownLanguageError:
        return UNKNOWN_FAMILY
    if not lineage:
        return UNKNOWN_FAMILY
    if _INDO_EUROPEAN not in lineage:
        return lineage[0]
    return next((branch for branch in _BRANCHES if branch in lineage), _INDO_EUROPEAN)


@cache
def _lineages() -> dict[str, tuple[str, ...]]:
    table = _load("family_features.npz")
    names = np.array([str(name).removeprefix("F_") for name in table["feats"]])
    member = table["data"].reshape(len(table["langs"]), -1) > 0
    return {str(language): tuple(names[row].tolist()) for language, row in zip(table["langs"], member, strict=True)}


def uriel_vector(code: str, feature_set: str) -> FloatArray:
    """Return a language's URIEL vector, shape [features of the set], values in 0..1.

    Args:
        code: ISO 639-1 or 639-3 code.
        feature_set: One of `FEATURE_SETS`.

    Raises:
        UnknownLanguageError: If URIEL has no vector for the language.
        UserError: If it does not know the feature set, or the vectors are not installed.

    Source:
        Littell et al. 2017 (URIEL and lang2vec), k-nearest-neighbour predictions shipped by lang2vec 1.1.2.
    """
    if feature_set not in FEATURE_SETS:
        raise UserError(f"unknown URIEL feature set {feature_set!r}; expected one of {sorted(FEATURE_SETS)}")
    rows, columns, values = _predictions()
    name = iso639_3(code)
    if name not in rows:
        raise UnknownLanguageError(
            f"URIEL has no vector for language {code!r} (looked up as {name!r}); leave it out of distances"
        )
    vector: FloatArray = values[rows[name], columns[feature_set]]
    if not vector.any():
        raise UnknownLanguageError(f"URIEL's {feature_set} vector of language {code!r} is all zeros: no direction")
    return vector


@cache
def _predictions() -> tuple[dict[str, int], dict[str, IntArray], FloatArray]:
    table = _load("feature_predictions.npz")
    features = [str(name) for name in table["feats"]]
    columns = {
        name: np.array([index for index, feature in enumerate(features) if feature.startswith(prefix)], dtype=np.intp)
        for name, prefix in FEATURE_SETS.items()
    }
    rows = {str(language): index for index, language in enumerate(table["langs"])}
    return rows, columns, np.asarray(table["data"].reshape(len(rows), -1), dtype=np.float64)


def _load(name: str) -> Any:
    # not imported: lang2vec needs pkg_resources, which new setuptools no longer have; not looked up by module name: its
    # wheel puts a script lang2vec.py beside ours, where Python looks first
    try:
        package = distribution("lang2vec")
    except PackageNotFoundError as error:
        raise UserError("the URIEL vectors are not installed; run 'pip install lang2vec==1.1.2 --no-deps'") from error
    return np.load(Path(str(package.locate_file("lang2vec"))) / "data" / name)
