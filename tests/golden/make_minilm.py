# SPDX-License-Identifier: Apache-2.0
"""Writes minilm.npz: embeddings of texts by Hugging Face's BertModel, from the file of the package.

    python tests/golden/make_minilm.py FOLDER-WITH-model.zip-UNPACKED

Needs torch and transformers (the extra `parity`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

TEXTS = (
    "dog barking",
    "a dog barks",
    "heavy rain on a tin roof",
    "English female speech",
    "Großes Café: 你好, ça va?",
    "bell",
)


def main(folder: str) -> None:
    """Mean over tokens, length one: the pooling that the model was trained with."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            mean = states.mean(0)
            rows.append((mean / mean.norm()).numpy())
    target = Path(__file__).parent / "minilm.npz"
    np.savez_compressed(target, texts=np.asarray(TEXTS), embeddings=np.stack(rows))


if __name__ == "__main__":
    main(sys.argv[1])
