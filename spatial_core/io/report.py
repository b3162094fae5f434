# SPDX-License-Identifier: Apache-2.0
"""A report as Markdown (pictures and sounds beside it) and as one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from spatial_core.audio.io import encode_mp3

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #cbd2d9; text-align: right; }
th:first-child, td:first-child, td.text { text-align: left; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #52606d; }
pre { background: #f3f4f6; padding: .8rem; overflow-x: auto; font-size: 14px; }
details { margin: 1rem 0; } summary { cursor: pointer; }
audio { width: 100%; max-width: 30rem; }
"""


@dataclass(frozen=True)
class _Part:
    markdown: str
    html: str


@dataclass
class Report:
    """Sections in the order in which they are added; `write` makes the Markdown and the HTML file."""

    title: str
    parts: list[_Part] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """A section's title."""
        self.parts.append(_Part(f"## {text}", f"<h2>{html.escape(text)}</h2>"))

    def text(self, text: str) -> None:
        """A paragraph of plain text."""
        self.parts.append(_Part(text, f"<p>{html.escape(text)}</p>"))

    def code(self, text: str) -> None:
        """Text in its own layout: a command, a terminal's table."""
        text = text.rstrip("\n")
        self.parts.append(_Part(f"```text\n{text}\n```", f"<pre>{html.escape(text)}</pre>"))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column names the rows, the others are set to the right."""
        width = len(header)
        if any(len(row) != width for row in rows):
            raise ValueError(f"every row needs {width} cells like the header {list(header)}")
        lines = [
            _markdown_row(header),
            "|" + "---|" + "---:|" * (width - 1),
            *(_markdown_row(row) for row in rows),
        ]
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        self.parts.append(_Part("\n".join(lines), f"<table><tr>{head}</tr>{body}</table>"))

    def pairs(self, rows: Sequence[tuple[str, str]]) -> None:
        """Names with what they are, one a line."""
        lines = [_markdown_row(cells) for cells in (("", ""), ("---", "---"), *rows)]
        body = "".join(
            f"<tr><td>{html.escape(name)}</td><td class=text>{html.escape(text)}</td></tr>"
            for name, text in rows
        )
        self.parts.append(_Part("\n".join(lines), f"<table>{body}</table>"))

    def figure(self, path: str | Path, caption: str, folder: str | Path) -> None:
        """A PNG: linked relative to `folder` in Markdown, embedded in HTML."""
        path = Path(path)
        link = Path(os.path.relpath(path, folder)).as_posix()
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        text = html.escape(caption, quote=True)
        self.parts.append(
            _Part(
                f"![{caption}]({link})\n\n*{caption}*",
                f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
                f"<figcaption>{text}</figcaption></figure>",
            )
        )

    def details(self, summary: str, text: str) -> None:
        """Text in its own layout that HTML shows when it is asked for."""
        text = text.rstrip("\n")
        self.parts.append(
            _Part(
                f"{summary}:\n\n```text\n{text}\n```",
                f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>",
            )
        )

    def audio(self, path: str | Path, caption: str, folder: str | Path) -> None:
        """A sound file: linked relative to `folder` in Markdown, its first two channels embedded in HTML."""
        path = Path(path)
        link = Path(os.path.relpath(path, folder)).as_posix()
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        data = base64.b64encode(encode_mp3(samples.T[:2], rate)).decode("ascii")
        text = html.escape(caption, quote=True)
        self.parts.append(
            _Part(
                f"[{caption}]({link})",
                f'<figure><audio controls src="data:audio/mpeg;base64,{data}"></audio>'
                f"<figcaption>{text}</figcaption></figure>",
            )
        )

    def write(self, folder: str | Path, name: str = "report") -> tuple[Path, Path]:
        """Write NAME.md and NAME.html into `folder`; returns their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        markdown = folder / f"{name}.md"
        text = "\n\n".join([f"# {self.title}", *(part.markdown for part in self.parts)])
        markdown.write_text(text + "\n", encoding="utf-8")
        page = folder / f"{name}.html"
        title = html.escape(self.title)
        page.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
            f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
            + "\n".join(part.html for part in self.parts)
            + "\n</body></html>\n",
            encoding="utf-8",
        )
        return markdown, page


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
