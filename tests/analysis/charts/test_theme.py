"""The page's colours: text reads on every shade, and gain and loss differ to every kind of colour vision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from transfergrid.analysis.charts.theme import COLOURS, DEEP

SHADES = np.linspace(0, 1, 101)
# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
Colour = npt.NDArray[np.float64]


def schemes() -> dict[str, dict[str, str]]:
    """Return the colours of the light and the dark scheme."""
    return COLOURS


def threshold(scheme: str) -> float:
    return DEEP[scheme]


def rgb(text: str) -> Colour:
    return np.array([int(text[place : place + 2], 16) / 255 for place in (1, 3, 5)])


def linear(colour: Colour) -> Colour:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def contrast(one: Colour, other: Colour) -> float:
    """WCAG 2 contrast ratio."""
    light, dark = sorted((float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(colour: Colour, vision: str) -> Colour:
    seen = np.clip(VISIONS[vision] @ linear(colour), 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ seen / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def mixed(scheme: dict[str, str], end: str, share: float) -> Colour:
    return share * rgb(scheme[end]) + (1 - share) * rgb(scheme["middle"])


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("end", ["gain", "loss"])
def test_numbers_in_cells_read_on_every_shade(name: str, end: str) -> None:
    scheme = schemes()[name]
    shallow, deep = (np.zeros(3), np.ones(3)) if name == "light" else (np.ones(3), np.zeros(3))
    for share in SHADES:
        ink = deep if share > threshold(name) else shallow
        assert contrast(mixed(scheme, end, share), ink) >= 4.5, share


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "soft", "accent"])
@pytest.mark.parametrize("ground", ["paper", "panel"])
def test_text_reads_on_the_page(name: str, text: str, ground: str) -> None:
    scheme = schemes()[name]
    assert contrast(rgb(scheme[text]), rgb(scheme[ground])) >= 4.5


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("vision", VISIONS)
def test_gain_loss_and_no_change_differ_to_every_kind_of_colour_vision(name: str, vision: str) -> None:
    scheme = schemes()[name]
    gain, loss, middle = (lab(rgb(scheme[each]), vision) for each in ("gain", "loss", "middle"))
    for one, other in ((gain, loss), (gain, middle), (loss, middle)):
        assert np.linalg.norm(one - other) > 30  # a just noticeable difference is about 2.3


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("end", ["gain", "loss"])
def test_a_larger_change_is_always_further_from_the_middle(name: str, end: str) -> None:
    scheme = schemes()[name]
    lightness = [lab(mixed(scheme, end, share), "normal")[0] for share in SHADES]
    assert np.all(np.diff(lightness) < 0) or np.all(np.diff(lightness) > 0)
