"""Figures inside of the page: our own SVG, reduced to shapes and words so that several can stand in one document.

Whatever a drawing brings that is neither (scripts, links, handlers, references to elsewhere) is dropped; ids are
renamed, since those of two drawings could meet; the descriptions that vl-convert writes at every mark are left to the
caption, and coordinates keep two decimals. A drawing that stays large, such as a matrix of many queries, comes as a
picture.
"""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from assets.findings.report.visible import visible

if TYPE_CHECKING:
    from assets.figures.drawing import Figure

LARGEST_SVG = 250_000
SHAPES = frozenset(
    "svg g defs path rect line circle ellipse polygon polyline text tspan clipPath mask pattern image use "
    "linearGradient radialGradient stop".split()
)
DROPPED = re.compile(r"^(on.*|aria-.*|role|class|tabindex|xmlns.*|data-.*|target|version)$", re.IGNORECASE)
OUTSIDE = re.compile(r"url\(\s*['\"]?(?!#)|@import|expression\(|javascript:", re.IGNORECASE)
NUMBER = re.compile(r"-?\d*\.\d{3,}(?:e-?\d+)?")
REFERENCE = re.compile(r"url\(\s*['\"]?#([^)'\"]+)['\"]?\s*\)")
GEOMETRY = frozenset("d points transform x y x1 x2 y1 y2 width height cx cy r rx ry viewBox dx dy".split())


@dataclass(frozen=True)
class Drawing:
    """A figure as the page holds it: `svg`, or else the address of a `picture` that is in the page itself."""

    title: str
    width: int
    svg: Markup | None = None
    picture: str | None = None


def drawing(figure: Figure, name: str) -> Drawing:
    """The figure for one page; `name` sets its ids apart from those of other figures."""
    root = ET.fromstring(figure.svg)
    width = _width(root)
    svg = inline_svg(root, name)
    if len(svg) <= LARGEST_SVG:
        return Drawing(figure.title, width, svg=Markup(svg))
    address = f"data:image/png;base64,{base64.b64encode(figure.png).decode()}"
    return Drawing(figure.title, width, picture=address)


def inline_svg(root: ET.Element, name: str) -> str:
    """The drawing as markup inside of HTML; ElementTree escapes its words."""
    _reduce(root)
    _rename(root, name)
    if "viewBox" not in root.attrib and {"width", "height"} <= root.attrib.keys():
        root.set("viewBox", f"0 0 {root.attrib['width']} {root.attrib['height']}")
    for attribute in ("width", "height", "style"):
        root.attrib.pop(attribute, None)
    root.set("aria-hidden", "true")  # the figure around it has the role, the name and the caption
    return ET.tostring(root, encoding="unicode")


def _reduce(element: ET.Element) -> None:
    element.tag = _local(element.tag)
    element.attrib = {
        _local(name): _short(_local(name), value) for name, value in element.attrib.items() if _is_kept(name, value)
    }
    element.text, element.tail = (visible(words) if words else None for words in (element.text, element.tail))
    for child in list(element):
        if isinstance(child.tag, str) and _local(child.tag) in SHAPES:
            _reduce(child)
        else:
            element.remove(child)


def _is_kept(name: str, value: str) -> bool:
    name = _local(name)
    if name == "href":
        return value.startswith(("#", "data:image/png;base64,"))
    return not DROPPED.match(name) and not OUTSIDE.search(value)


def _short(name: str, value: str) -> str:
    if name not in GEOMETRY:
        return visible(value)
    return NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip(".") or "0", value)


def _rename(root: ET.Element, name: str) -> None:
    """In the order of the drawing, so that the same one always gets the same ids."""
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    names = {each: f"{name}-{number}" for number, each in enumerate(dict.fromkeys(ids))}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, names[value])
            elif key == "href" and value.startswith("#"):
                element.set(key, f"#{names.get(value[1:], '')}")
            elif "url(" in value:
                element.set(key, REFERENCE.sub(lambda match: f"url(#{names.get(match[1], '')})", value))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _width(root: ET.Element) -> int:
    digits = re.match(r"\d+", root.attrib.get("width", ""))
    return int(digits[0]) if digits else 600
