"""Languages: ISO codes, families and URIEL vectors."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

from transfergrid.analysis.transfer import languages
from transfergrid.analysis.transfer.languages import (
    FEATURE_SETS,
    LANGUAGE_FAMILIES,
    derived_family,
    iso639_3,
    language_family,
    uriel_vector,
)
from transfergrid.grid import LANGUAGES, UserError


def test_feature_sets_have_the_sizes_of_uriel() -> None:
    assert [len(uriel_vector("eng", name)) for name in FEATURE_SETS] == [103, 28, 158]


def test_codes_of_the_study_are_uriels() -> None:
    assert [iso639_3(code) for code in LANGUAGES] == [
        "ara",
        "ben",
        "deu",
        "eng",
        "spa",
        "fra",
        "hin",
        "ind",
        "ita",
        "por",
        "cmn",
    ]
    assert iso639_3("zh_hant") == "cmn"
    assert iso639_3("fi") == "fin"
    assert iso639_3("fa") == "pes"


def test_the_fixed_families_are_what_glottolog_in_uriel_says() -> None:
    assert {code: derived_family(code) for code in LANGUAGES} == LANGUAGE_FAMILIES


@pytest.mark.parametrize(
    ("code", "expected"), [("ja", "Japonic"), ("ru", "Balto-Slavic"), ("sw", "Atlantic-Congo"), ("xx", "unknown")]
)
def test_families_of_other_languages_are_derived(code: str, expected: str) -> None:
    assert language_family(code) == expected


def test_a_code_that_is_no_language_is_refused() -> None:
    with pytest.raises(UserError, match="language 'qq' is not an ISO 639 code"):
        iso639_3("qq")


def test_an_unknown_feature_set_is_refused() -> None:
    with pytest.raises(UserError, match="unknown URIEL feature set 'geo'"):
        uriel_vector("de", "geo")


def test_a_language_without_vectors_is_named() -> None:
    with pytest.raises(UserError, match="URIEL has no vector for language 'cnr'"):
        uriel_vector("cnr", "syntax_knn")


def test_a_vector_of_zeros_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns, values = languages._predictions()
    monkeypatch.setattr(languages, "_predictions", lambda: (rows, columns, np.zeros_like(values)))
    with pytest.raises(UserError, match="syntax_knn vector of language 'de' is all zeros"):
        uriel_vector("de", "syntax_knn")


def test_missing_vectors_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_there(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(languages, "distribution", not_there)
    with pytest.raises(UserError, match="pip install lang2vec"):
        languages._load("feature_predictions.npz")


def test_a_script_named_like_the_package_does_not_hide_the_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an installed 'grid' runs beside the script lang2vec.py of the package's own wheel
    (tmp_path / "lang2vec.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert "langs" in languages._load("feature_predictions.npz")
