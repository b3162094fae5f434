# SPDX-License-Identifier: Apache-2.0
"""What questions and answers look like: every kind about a few made-up talkers.

python -c "from llm_bridge.qa.examples import print_examples; print_examples()"
"""

from __future__ import annotations

from collections.abc import Sequence

from llm_bridge.qa.book import KINDS, QuestionBook
from llm_bridge.qa.formats import TalkerLike
from llm_bridge.qa.plan import plan_questions
from llm_bridge.tokens.record import Talker


def example_clips() -> list[tuple[Talker, ...]]:
    """Five clips with none, one and two talkers whose places are far enough apart for every kind."""
    near_right = Talker(0.3, 2.1, 20.0, 0.0, 1.2, "Put the kettle on, please.", "anna")
    far_left = Talker(2.6, 4.8, 160.0, 10.0, 4.4, "It has been boiling for a minute.", "ben")
    behind_left = Talker(0.4, 2.2, -140.0, -5.0, 3.3, "The last bus leaves at ten.", "carla")
    front_right = Talker(2.7, 4.0, 50.0, 0.0, 1.7, "Then we should go.", "dan")
    alone = Talker(0.2, 1.9, -60.0, 20.0, 5.5, "Is anybody there?", "eve")
    return [(near_right, far_left), (behind_left, front_right), (alone,), (far_left,), ()]


def examples(
    clips: Sequence[Sequence[TalkerLike]] | None = None,
    book: QuestionBook | None = None,
    seed: int = 0,
    per_kind: int = 3,
) -> str:
    """Questions and answers of every kind as Markdown, about the clips given or made-up ones."""
    clips = example_clips() if clips is None else clips
    counts = {task: per_kind * len(kinds) for task, kinds in KINDS.items()}
    lines: list[str] = []
    task = 0
    plan = plan_questions(clips, counts, seed, book)
    order = {kind: n for kinds in KINDS.values() for n, kind in enumerate(kinds)}
    for clip, question in sorted(plan, key=lambda item: (item[1].task, order[item[1].kind])):
        if question.task != task:
            task = question.task
            lines += ["", f"### Task {task}", "", "| kind | clip | question | answer |"]
            lines += ["|---|---|---|---|"]
        lines.append(f"| {question.kind} | {clip} | {question.user} | `{question.answer}` |")
    return "\n".join(lines[1:])


def print_examples(seed: int = 0, per_kind: int = 3) -> None:
    """Print the made-up clips and `examples` of them."""
    print("| clip | talkers in the order they are heard: azimuth, elevation, distance |")
    print("|---|---|")
    for number, talkers in enumerate(example_clips()):
        places = "; ".join(f"{t.azimuth:g}°, {t.elevation:g}°, {t.distance:g} m" for t in talkers)
        print(f"| {number} | {places or 'nobody'} |")
    print()
    print(examples(seed=seed, per_kind=per_kind))
