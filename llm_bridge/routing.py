# SPDX-License-Identifier: Apache-2.0
"""Which of the four tasks a person's question is, so that the model gets the prompt it was trained with.

In this order: a question after words that also wants places of everybody is Task 3; one that begins
like a yes-or-no question is Task 2; one after the words of a certain talker (left, nearer, 40 degrees)
is Task 4; any other one after words Task 3; the rest asks where somebody is, Task 1. "Can you tell me"
and the like is no yes-or-no question: what comes after it counts.
"""

from __future__ import annotations

import re

from spatial_core.errors import InputError

TASK_NAMES = {
    1: "where everybody is",
    2: "yes or no",
    3: "who says what, and where",
    4: "the words of one talker",
}
_WORDS = re.compile(
    r"\b(say(s|ing)?(?! where)|said|words?|transcri\w+|write|type|take (\w+ )*down|minutes|utter\w*|"
    r"speech|what do you hear|listen only|tell me what|talking about)\b"
)
_PLACES_WANTED = re.compile(
    r"\b(where|places?|spots?|positions?|locations?|locate|localize|localise|angles?|comes? from)\b"
)
_PLACE_ASKED = re.compile(
    r"\b(where\w*|who|find|point|which (way|side)|sides?|directions?|distances?|how (far|close)|azimuths?|elevations?)\b"
)
_REQUEST = re.compile(
    r"^(please |(can|could|will|would) you (please |kindly )?)"
    r"(?=(tell|give|show|list|name|transcribe|write|type|repeat|locate|find)\b)"
)
_YES_NO = re.compile(
    r"^(is|are|was|were|am|do|does|did|can|could|would|will|has|have|should|must|"
    r"tell me (if|whether))\b"
)
_YES_NO_LATER = re.compile(r"[:,]\s*(is|are|does|do|more than|less than)\b")
_ONE_TALKER = re.compile(
    r"\b(left|right|front|ahead|before me|behind|back|near(er|est)?|clos(er|est)|far(ther|thest)?|"
    r"further|furthest|degrees?|met(er|re)s?|\d+(\.\d+)? ?m)\b"
)


def guess_task(question: str) -> int:
    """1 to 4. InputError for an empty question."""
    text = " ".join(question.casefold().split())
    if not text:
        raise InputError("the question is empty: ask something, such as 'Where is the voice?'")
    text = _REQUEST.sub("", text)
    words = bool(_WORDS.search(text))
    one = bool(_ONE_TALKER.search(text))
    if words and _PLACES_WANTED.search(text) and not one:
        return 3
    if _YES_NO.search(text) or (not words and text.endswith("?") and _YES_NO_LATER.search(text)):
        return 2
    if words:
        return 4 if one else 3
    return 1


def is_recognised(question: str) -> bool:
    """Whether a question's words say what it asks; any other one is taken for "where is everybody"."""
    text = " ".join(question.casefold().split())
    patterns = (_PLACE_ASKED, _PLACES_WANTED, _ONE_TALKER)
    return guess_task(question) != 1 or any(pattern.search(text) for pattern in patterns)


def check_task(task: int | None, question: str) -> int:
    """The task that a caller gives, else the guess; InputError for one that does not exist."""
    if task is None:
        return guess_task(question)
    if task not in TASK_NAMES:
        named = ", ".join(f"{number} ({name})" for number, name in TASK_NAMES.items())
        raise InputError(f"task is {task!r}: choose among {named}")
    guess_task(question)  # refuses an empty question
    return task
