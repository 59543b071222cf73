"""Pages of HTML that hold all they need: no request leaves them, and texts cannot become markup."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement

# Every rule is for what has the class lrp, or lies in it, so that a page can be shown inside another one, such as a
# notebook. The paper stays white in the dark too: white means no relevance.
STYLE = """
.lrp{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif;background:#fff;color:#1a1a1a}
body.lrp{margin:0}main.lrp{max-width:60rem;margin:0 auto;padding:1rem}
.lrp h1{font-size:1.3rem}.lrp h2{font-size:1.05rem;margin:0 0 .4rem}.lrp section{margin:0 0 2rem}
.lrp .facts span{margin-inline-end:1.4rem}.lrp b{font-weight:600}
.lrp .paper{background:#fff;color:#000;border:1px solid #999;border-radius:4px;padding:.6rem .8rem;margin:.4rem 0;
line-height:1.9;overflow-wrap:anywhere}
.lrp .w{display:inline-block;max-width:100%;white-space:pre-wrap;border-radius:3px;padding:0 .12em}
.lrp .s{font:.75em/1.6 ui-monospace,monospace;border:1px dashed #777;margin:0 .15em}
.lrp .legend,.lrp .note{font-size:.85rem}.lrp .bar{display:inline-block;width:10rem;height:.8em;border:1px solid #999;
margin:0 .5em;vertical-align:middle}
.lrp table{border-collapse:collapse;width:100%}.lrp th,.lrp td{text-align:start;vertical-align:top;padding:.3rem .6rem;
border-bottom:1px solid #bbb;overflow-wrap:anywhere}.lrp a{color:#0b57d0}
@media (prefers-color-scheme:dark){.lrp{background:#16181c;color:#e4e4e4}.lrp a{color:#8ab4f8}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
# What HTML does not allow, and what a lone byte of a file name becomes.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def clean(text: object) -> str:
    """The text with U+FFFD in place of what HTML does not allow. Escaping comes later, see `_written`."""
    return _FORBIDDEN.sub("\ufffd", str(text))


def add(parent: Element, tag: str, text: object = "", **attributes: str) -> Element:
    """A new element in `parent`. Attributes: `class_` is class."""
    made = SubElement(parent, tag, {name.rstrip("_"): clean(value) for name, value in attributes.items()})
    made.text = clean(text)
    return made


def facts(parent: Element, named: Sequence[tuple[str, str]]) -> None:
    """A line of names and what they are."""
    line = add(parent, "p", class_="facts")
    for name, value in named:
        one = add(line, "span")
        add(one, "b", f"{name}: ").tail = clean(value)


def root() -> Element:
    """What a page is put into."""
    return Element("main", {"class": "lrp"})


def fragment(main: Element) -> str:
    """A part of a page, with its style."""
    return f"<style>{STYLE}</style>{_written(main)}"


def document(title: str, main: Element) -> str:
    """A whole page."""
    page = Element("html", {"class": "lrp"})
    head = SubElement(page, "head")
    for attributes in (
        {"charset": "utf-8"},
        {"http-equiv": "Content-Security-Policy", "content": _POLICY},
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
    ):
        SubElement(head, "meta", attributes)
    SubElement(head, "link", {"rel": "icon", "href": "data:,"})  # else a browser asks the server for one
    add(head, "title", title)
    SubElement(head, "style").text = STYLE
    body = SubElement(page, "body", {"class": "lrp"})
    body.append(main)
    return f"<!DOCTYPE html>\n{_written(page)}\n"


def _written(element: Element) -> str:
    """HTML of an element. ElementTree's own leaves "<" in attributes as it is: allowed, but not plain to see."""
    attributes = "".join(f' {name}="{html.escape(value)}"' for name, value in element.items())
    begin, text = f"<{element.tag}{attributes}>", element.text or ""
    if element.tag in ("meta", "link", "br"):  # they have no end
        return begin + _tail(element)
    inside = text if element.tag == "style" else html.escape(text, quote=False)
    return f"{begin}{inside}{''.join(map(_written, element))}</{element.tag}>{_tail(element)}"


def _tail(element: Element) -> str:
    return html.escape(element.tail or "", quote=False)
