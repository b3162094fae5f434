# SPDX-License-Identifier: Apache-2.0
"""Questions about recordings: what reaches the model, how its answers are read, what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import llm_bridge
from llm_bridge import api, cli
from llm_bridge.api import BridgeModel, Spoken, ask, ask_stream, read_sound
from llm_bridge.qa.book import QuestionBook
from llm_bridge.routing import guess_task, is_recognised
from llm_bridge.shipped import SHIPPED
from llm_bridge.spoken import once
from llm_bridge.trained import load
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError
from tests.unit.llm_bridge.released import BACKBONE, LevelEncoder, of_another_encoder, release
from tests.unit.phasecoder.plane_wave import plane_wave

MICS = "tetrahedron"
RNG = np.random.default_rng(0)
SOUND = (0.02 * RNG.standard_normal((4, SAMPLE_RATE))).astype(np.float32)
LEFT = "What does the one on my left say?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return release(tmp_path_factory.mktemp("release") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return BridgeModel(load(folder), LevelEncoder())  # type: ignore[arg-type]


@pytest.fixture
def says(model, monkeypatch):
    """Puts words into the model's mouth; the prompts it would have read are in the list given back."""

    def put(*pieces: str):
        asked = []

        class Mouth:
            def __init__(self, task, max_new, batch_size):
                self.task = task

            def stream(self, one, params):
                asked.append(one)
                assert len(one.row.prompt) <= self.task.length
                yield from pieces

        monkeypatch.setattr(api, "Generator", Mouth)
        monkeypatch.setattr(model, "_generators", {})
        return asked

    return put


def test_every_wording_of_the_book_goes_to_its_task():
    book = QuestionBook.load()
    for task, kinds in book.questions.items():
        for wordings in kinds.values():
            for wording in wordings:
                text = wording.format(azimuth=40, distance="1.2", angle=60)
                # A number asked for by itself is answered with the places, which every model gives.
                assert guess_task(text) == (1 if task == 5 else task), text


@pytest.mark.parametrize(
    ("question", "task"),
    [
        ("Who is on my left, and what do they say?", 4),
        ("Where is the talker?", 1),
        ("How far away is the speaker?", 1),
        ("Is anyone behind me?", 2),
        ("Is speaker 1 to the left of speaker 2?", 2),
        ("Transcribe everything you hear and tell me where each speaker is located.", 3),
        ("Transcribe the person closer to me.", 4),
        ("what is being said", 3),
        ("Can you tell me what they say?", 3),
        ("Could you please transcribe the person on my right?", 4),
        ("Will you tell me where the voice is?", 1),
        ("Could you tell me if somebody is on my left?", 2),
        ("Can you hear anybody behind me?", 2),
    ],
)
def test_other_words_are_understood(question, task):
    assert guess_task(question) == task


def test_what_reaches_the_model(model, says):
    asked = says("[So it ", "is.]")
    heard = model.hear(read_sound(SOUND, MICS, SAMPLE_RATE))
    answer = ask(SOUND, MICS, f" {LEFT}\n", model, sample_rate=SAMPLE_RATE)
    one = asked[0]
    assert one.row.spatial == len(one.tokens) == len(one.audio) == 7  # 1 s in steps of 160 ms
    np.testing.assert_array_equal(one.tokens, heard.tokens)
    ids = BACKBONE.prompt("", LEFT)[1]
    assert list(one.row.prompt[-len(ids) :]) == ids
    assert answer.text == str(answer) == "[So it is.]" and answer.task == 4
    assert answer.talkers == (Spoken(words="So it is."),) and answer.problems == ()
    assert answer.seconds == pytest.approx(1.0) and answer.array_name == MICS


def test_the_mono_sound_has_the_level_of_training(model, monkeypatch):
    """RMS 0.05 whatever the recorder's gain; the mean of the channels."""
    levels = []

    def ear(mono):
        levels.append(float(np.sqrt(np.mean(mono**2))))
        return np.zeros((-(-len(mono) // HOP), BACKBONE.audio_width), np.float32)

    monkeypatch.setattr(model, "_mono", ear)
    for gain in (1.0, 0.05):
        model.hear(read_sound(gain * SOUND, MICS, SAMPLE_RATE))
    assert levels == pytest.approx([0.05, 0.05], rel=1e-3)


def test_the_model_itself_answers_and_streams_the_same(model):
    """Untrained it says nothing useful, but all of the way is walked."""
    options = {"sample_rate": SAMPLE_RATE, "max_new": 8}
    whole = ask(SOUND, MICS, "Where is the voice?", model, **options)
    pieces = list(ask_stream(SOUND, MICS, "Where is the voice?", model, **options))
    assert "".join(pieces) == whole.text
    assert llm_bridge.ask is ask


def test_answers_are_read_in_the_convention_of_questions(model, says):
    says(
        "azimuth_degrees_1=180, elevation_degrees_1=100, distance_meters_1=17, "
        "azimuth_degrees_2=270, elevation_degrees_2=090, distance_meters_2=44"
    )
    answer = ask(SOUND, MICS, "Where is everybody?", model, sample_rate=SAMPLE_RATE)
    assert answer.talkers == (Spoken(180.0, 10.0, 1.7), Spoken(270.0, 0.0, 4.4))
    assert answer.explain().splitlines() == [
        "First a talker 90 degrees to the left (azimuth 180), 10 degrees up, 1.7 m away",
        "Then a talker straight behind you (azimuth 270), 4.4 m away",
    ]
    says("yes")
    assert ask(SOUND, MICS, "Is it left?", model, sample_rate=SAMPLE_RATE).yes is True
    says("perhaps")
    unclear = ask(SOUND, MICS, "Is it left?", model, sample_rate=SAMPLE_RATE)
    assert unclear.yes is None and "expected yes or no" in unclear.problems[0]
    says("none")
    assert ask(SOUND, MICS, LEFT, model, sample_rate=SAMPLE_RATE).talkers == ()
    answer = ask(SOUND, MICS, LEFT, model, sample_rate=SAMPLE_RATE, task=2)
    assert answer.task == 2 and json.loads(answer.to_json())["yes"] is None


@pytest.mark.parametrize(
    ("azimuth", "said"),
    [
        (90, "straight ahead"),
        (130, "40 degrees to the left"),
        (0, "90 degrees to the right"),
        (320, "130 degrees to the right, behind you"),
        (270, "straight behind you"),
    ],
)
def test_directions_are_said_as_whoever_looks_along_y_sees_them(azimuth, said):
    assert str(Spoken(float(azimuth))) == f"a talker {said} (azimuth {azimuth})"


def test_one_place_named_twice_is_one_talker_unless_other_words_come_from_there(model, says):
    place = "azimuth_degrees_#=060, elevation_degrees_#=090, distance_meters_#=22"
    says(f"{place}, {place}".replace("#", "1", 3).replace("#", "2"))
    answer = ask(SOUND, MICS, "Where is everybody?", model, sample_rate=SAMPLE_RATE)
    assert answer.talkers == (Spoken(60.0, 0.0, 2.2),) and "told as one" in answer.notes[-1]
    near, far = Spoken(60.0, 0.0, 2.2, "So it is."), Spoken(70.0, 10.0, 2.8)
    assert once((near, far)) == (near,)
    assert once((far, near)) == (dataclasses.replace(far, words="So it is."),)
    assert len(once((near, dataclasses.replace(near, words="No.")))) == 2
    assert len(once((near, Spoken(80.0, 0.0, 2.2)))) == 2
    assert len(once((near, Spoken(60.0, 0.0, 3.3)))) == 2
    assert len(once((Spoken(), Spoken()))) == 2


@pytest.mark.parametrize(
    ("question", "known"),
    [
        ("What time is it?", False),
        ("hello", False),
        ("Which way is the voice?", True),
        ("How far off?", True),
        ("Who is talking?", True),
        ("How many people talk?", False),
        ("Is anyone behind me?", True),
    ],
)
def test_what_cannot_be_asked_is_told(model, says, question, known):
    says("azimuth_degrees_1=060, elevation_degrees_1=090, distance_meters_1=22")
    answer = ask(SOUND, MICS, question, model, sample_rate=SAMPLE_RATE)
    assert any("of no known kind" in note for note in answer.notes) != known
    if not known:  # who says which task it is means it
        meant = ask(SOUND, MICS, question, model, sample_rate=SAMPLE_RATE, task=1)
        assert not any("of no known kind" in note for note in meant.notes)


def test_every_wording_of_the_book_is_of_a_known_kind():
    book = QuestionBook.load()
    for kinds in book.questions.values():
        for wordings in kinds.values():
            for wording in wordings:
                assert is_recognised(wording.format(azimuth=40, distance="1.2", angle=60)), wording


def test_delays_that_contradict_the_array_are_told():
    arrives = plane_wave("nao_8", 35, 10, seconds=3.0)
    right = read_sound(arrives, "nao_8", SAMPLE_RATE)
    wrong = read_sound(arrives[[0, 6, 2, 3, 4, 5, 1, 7]], "nao_8", SAMPLE_RATE)
    assert not any("do not fit this array" in note for note in right.notes)
    (note,) = [note for note in wrong.notes if "do not fit this array" in note]
    assert "channels 2 and 7" in note and "phasecoder array check nao_8" in note


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (SOUND[:3], "3 channels"),
        (np.zeros((4, 0), np.float32), "no samples"),
        (np.zeros((4, 8000), np.float32), "digital silence"),
        (np.repeat(SOUND[:1], 4, axis=0), "identical"),
        (np.tile(SOUND, 31), "longer than 30 s"),
    ],
)
def test_unusable_recordings_are_refused(model, sound, message):
    with pytest.raises(InputError, match=message):
        ask(sound, MICS, LEFT, model, sample_rate=SAMPLE_RATE)


@pytest.mark.parametrize(("start", "seconds"), [(5, 10), (12, 5), (22, 5), (0.5, 20)])
def test_a_part_of_a_recording_is_that_part_wherever_it_lies(tmp_path, start, seconds):
    """Also where more was looked ahead at than the part has."""
    sound = (0.02 * RNG.standard_normal((4, 28 * SAMPLE_RATE))).astype(np.float32)
    soundfile.write(tmp_path / "room.wav", sound.T, SAMPLE_RATE, subtype="FLOAT")
    part = sound[:, round(start * SAMPLE_RATE) :][:, : seconds * SAMPLE_RATE]
    for given, rate in ((sound, SAMPLE_RATE), (tmp_path / "room.wav", None)):
        read = read_sound(given, MICS, rate, start=start, seconds=seconds)
        np.testing.assert_array_equal(read.samples, part)


def test_a_part_of_a_long_recording():
    long = np.tile(SOUND, 31) * np.linspace(0.5, 1, 31 * SAMPLE_RATE, dtype=np.float32)
    part = read_sound(long, MICS, SAMPLE_RATE, start=3, seconds=2)
    np.testing.assert_array_equal(part.samples, long[:, 3 * SAMPLE_RATE : 5 * SAMPLE_RATE])
    assert read_sound(long, MICS, SAMPLE_RATE, start=30.5).samples.shape == (4, SAMPLE_RATE // 2)
    with pytest.raises(InputError, match="ends before start=40"):
        read_sound(long, MICS, SAMPLE_RATE, start=40)
    with pytest.raises(InputError, match="up to 30 s"):
        read_sound(long, MICS, SAMPLE_RATE, seconds=31)


def test_questions_that_cannot_be_asked_are_refused(model):
    with pytest.raises(InputError, match="question is empty"):
        ask(SOUND, MICS, " ", model, sample_rate=SAMPLE_RATE)
    with pytest.raises(InputError, match=r"task is 5: choose among 1 \(where"):
        ask(SOUND, MICS, LEFT, model, sample_rate=SAMPLE_RATE, task=5)


def test_another_encoder_is_refused_with_both_digests(folder, tmp_path):
    other = of_another_encoder(folder, tmp_path / "other")
    with pytest.raises(InputError, match=r"encoder_digest: 'ffff.* -> '(?!ffff)"):
        BridgeModel(load(other), LevelEncoder())  # type: ignore[arg-type]


def test_a_bridge_of_another_grid_is_refused(folder, tmp_path):
    other = of_another_encoder(folder, tmp_path / "other", hop=4000)
    with pytest.raises(InputError, match="hop: 4000 -> 2560"):
        BridgeModel(load(other), LevelEncoder())  # type: ignore[arg-type]


def test_no_bridge_at_all_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="no trained bridge ships"):
        dataclasses.replace(SHIPPED, folder=tmp_path).resolve(None)


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "room.wav"
    soundfile.write(path, SOUND.T, SAMPLE_RATE, subtype="FLOAT")
    return str(path)


@pytest.fixture
def command(folder, model, monkeypatch):
    monkeypatch.setattr(api, "load_model", lambda *given: model)
    return lambda *arguments: cli.main(list(arguments))


def test_the_command_prints_the_answer_in_words(command, recording, says, capsys):
    asked = says("azimuth_degrees_1=000, elevation_degrees_1=090, ", "distance_meters_1=12")
    assert command(recording, "--mics", MICS, "Where is the voice?") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "A talker 90 degrees to the right (azimuth 0), 1.2 m away"
    assert any("azimuth_2 is missing" in line for line in lines) and len(asked) == 1
    assert lines[-1].startswith("Convention: you stand") and "azimuth_degrees" not in captured.out
    assert captured.err.splitlines()[0] == "loading the language model ..."


def test_the_command_as_json_and_with_questions_line_by_line(
    command, recording, says, capsys, monkeypatch, tmp_path
):
    asked = says("yes")
    assert command(recording, "--mics", MICS, "Is it left?", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["yes"] is True and "90 in front" in said["convention"]
    questions = tmp_path / "questions.txt"
    questions.write_text("Is it left?\n\nIs it right?\n")
    with questions.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert command(recording, "--mics", MICS) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["> Is it left?", "yes"] and told[2].startswith("> ") and told[3] == "yes"
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("sound", "said"),
    [
        (SOUND[:, :0], "holds no audio (0 samples)"),
        (np.tile(SOUND, 31), "--start 0 --seconds 30"),
        (SOUND[:3], "3 channels"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_recording(command, tmp_path, capsys, sound, said):
    soundfile.write(tmp_path / "room.wav", sound.T, SAMPLE_RATE, subtype="FLOAT")
    assert command(str(tmp_path / "room.wav"), "--mics", MICS, LEFT) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spatial-ask: error: ") and said in line


def test_mistakes_end_with_code_2_and_one_line(command, recording, capsys):
    assert command("missing.wav", "--mics", MICS, LEFT) == 2
    assert command(recording, "--mics", MICS, " ") == 2
    assert command(recording, "--mics", "no_such_array", LEFT) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("spatial-ask: error: ") for line in errors)


def test_a_mistake_is_said_before_jax_is_imported(recording):
    code = (
        "import sys; from llm_bridge import cli\n"
        f"good = [{recording!r}, '--mics', {MICS!r}, {LEFT!r}]\n"
        "for more in (['--start', '9'], ['--model', 'nowhere'], ['--encoder', 'nowhere'],\n"
        "             ['--weights', 'nowhere'], ['--max-new', '0']):\n"
        "    assert cli.main([*good, *more]) == 2, more\n"
        "assert cli.main([*good[:3], ' ']) == 2\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def test_a_model_without_system_prompts_is_asked_for_places_in_words_that_it_was_taught(model):
    known = model._book.wordings(1, "locate")
    assert model._in_its_words("Where is the voice?", 1) in known
    assert model._in_its_words(known[3], 1) == known[3]
    assert model._in_its_words("Is anybody behind me?", 2) == "Is anybody behind me?"
