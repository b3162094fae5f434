# SPDX-License-Identifier: Apache-2.0
"""Reports: the HTML stands alone, the Markdown's links resolve, text is escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from spatial_core.audio.io import write_wav
from spatial_core.io.report import Report
from spatial_core.viz.style import figure


class _Balanced(HTMLParser):
    """Checks that every element is closed in order."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def written(tmp_path):
    with figure(tmp_path / "pictures" / "a.png", 2, 2) as drawn:
        drawn.add_subplot().plot(np.arange(3))
    report = Report("Rooms & directions")
    report.heading("Errors < 10 degrees")
    report.text("a < b & c")
    report.table(["method", "median | mean"], [["SRP-PHAT", "4.9"], ["ours", "2.5"]])
    report.code("$ phasecoder localize room.wav --mics a.json\n")
    report.pairs([("seed", "3 < 4")])
    report.details("all of it", "x & y")
    write_wav(tmp_path / "tone.wav", 0.5 * np.sin(np.arange(16000) / 5)[None].repeat(3, 0))
    report.audio(tmp_path / "tone.wav", "a tone", tmp_path)
    report.figure(tmp_path / "pictures" / "a.png", 'the "caption"', tmp_path)
    return report.write(tmp_path)


def test_html_is_whole_and_needs_no_other_file(written):
    text = written[1].read_text()
    parser = _Balanced()
    parser.feed(text)
    assert parser.open == []
    sources = re.findall(r'src="([^"]{0,40})', text)
    kinds = {source.partition(";")[0] for source in sources}
    assert kinds == {"data:image/png", "data:audio/mpeg"}
    assert "<td>seed</td><td class=text>3 &lt; 4</td>" in text
    assert "<summary>all of it</summary><pre>x &amp; y</pre>" in text
    assert "http" not in text and "a &lt; b &amp; c" in text


def test_markdown_links_to_existing_files_and_keeps_the_table_square(written):
    text = written[0].read_text()
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert links == ["pictures/a.png"] and (written[0].parent / links[0]).exists()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "[a tone](tone.wav)" in text
    assert len(rows) == 7 and len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_ragged_tables_are_refused():
    with pytest.raises(ValueError, match="needs 2 cells"):
        Report("x").table(["a", "b"], [["1"]])
