# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a language model to answer questions about spatial tokens, as a task of the shared loop."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, Int
from numpy.typing import NDArray

from llm_bridge import lora as adapters
from llm_bridge.adapters import model_metadata
from llm_bridge.layout import MAX_SOFT, MONO, SPATIAL, checked_soft, pad_soft, rows_of_batch
from llm_bridge.lora import LoraConfig
from llm_bridge.projector import TOKEN_WIDTH, Projector
from llm_bridge.protocol import Backbone
from spatial_core.config.resolved import UNSAID
from spatial_core.errors import InputError
from spatial_core.nn.functional import Functional
from spatial_core.train.task import Exhibit, merge_params
from spatial_core.typing import Array, Batch, Params

if TYPE_CHECKING:
    from llm_bridge.generate import Generator

# Rows that are answered in full after each validation.
SAMPLES = 4
_OURS = re.compile(rf"^projector/|{adapters.ADAPTERS}")


class Bridge(nnx.Module):
    """A language model, its adapters and the projector of spatial tokens."""

    def __init__(
        self,
        backbone: Backbone,
        lora: LoraConfig | None,
        token_width: int = TOKEN_WIDTH,
        cycle: int = 1,
        *,
        rngs: nnx.Rngs,
    ):
        self.model = backbone.build(rngs)
        if lora is not None:
            adapters.attach(self.model, lora, rngs)
        self.projector = Projector(backbone.width, token_width, cycle, rngs=rngs)

    def embed(
        self,
        ids: Int[Array, "b n"],
        tokens: Float[Array, "b k w"],
        audio: Float[Array, "b l a"],
    ) -> Float[Array, "b n d"]:
        """Word embeddings with the soft tokens in their places."""
        embeds = self.model.embed(ids)
        embeds = _place(embeds, ids == SPATIAL, self.projector(tokens))
        return _place(embeds, ids == MONO, self.model.embed_audio(audio))


def _question(prompt: str) -> str:
    """The end of a prompt, which is the question, on one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= 120 else f"... {line[-120:]}"


def _place(embeds: Array, where: Array, soft: Array) -> Array:
    """`embeds` with row i of `soft` at the i-th position that `where` marks."""
    index = jnp.clip(jnp.cumsum(where, axis=1) - 1, 0, soft.shape[1] - 1)
    placed = jnp.take_along_axis(soft, index[..., None], axis=1).astype(embeds.dtype)
    return jnp.where(where[..., None], placed, embeds)


@dataclass(frozen=True)
class BridgeTask:
    """Cross-entropy of the answers, given questions and soft tokens (section 3.3).

    Attributes:
      backbone: the language model. Its parameters stay as they are, besides those that its own
        `trainable` names.
      lora: adapters; None for a model that is trained as a whole.
      soft, length, answer_length: soft tokens of each stream, ids of a row and of its answer in a
        batch; shapes are fixed, so that one program serves all batches.
      cycle: words in which the projector says a place, one after the other (`Projector`); the paper's: 1.
    """

    backbone: Backbone
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    soft: int = MAX_SOFT
    length: int = 1024
    answer_length: int = 160
    cycle: int = field(default=1, metadata=UNSAID)

    def __post_init__(self) -> None:
        if not 1 <= self.soft <= MAX_SOFT:
            raise InputError(f"BridgeTask.soft is {self.soft}: 1 to {MAX_SOFT} (30 s)")
        if self.length < 2 * self.soft + 4:
            raise InputError(
                f"BridgeTask.length is {self.length}: {2 * self.soft + 4} ids go to the soft tokens alone"
            )
        if self.cycle < 1:
            raise InputError(f"BridgeTask.cycle is {self.cycle}: at least 1")

    @property
    def name(self) -> str:
        """For messages and reports."""
        return f"bridge_{self.backbone.name}"

    @property
    def partition_rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """The backbone's; adapters and projector are whole on every device."""
        ours = ((adapters.ADAPTERS, ()), (r"^projector/", ()))
        return (*ours, *self.backbone.partition_rules)

    @property
    def metadata(self) -> dict[str, Any]:
        """What checkpoints depend on in the language model; see `adapters.model_metadata`."""
        described = model_metadata(self.backbone, self.lora)
        return described if self.cycle == 1 else {**described, "cycle": self.cycle}

    @functools.cached_property
    def _functional(self) -> Functional:
        return Functional(self.build)

    def build(self, rngs: nnx.Rngs) -> Bridge:
        """The model with fresh parameters."""
        return Bridge(self.backbone, self.lora, cycle=self.cycle, rngs=rngs)

    @property
    def mono_soft(self) -> int:
        """Soft tokens of the mono stream in a batch; PhaseCoder's streams share their grid."""
        return self.soft

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Of what is heard in space, of one row of a batch."""
        return (self.soft, TOKEN_WIDTH)

    def stack_spatial(self, clips: Sequence[NDArray[np.floating[Any]]]) -> NDArray[np.float32]:
        """What is heard in space in several clips [k, 256] as a batch, zeros behind their end."""
        return pad_soft([checked_soft(clip, TOKEN_WIDTH) for clip in clips], self.soft)

    def bind(self, params: Params) -> Bridge:
        """The model holding all parameters, trained and frozen."""
        return self._functional.bind(params)  # type: ignore[return-value]

    def init(self, rng: jax.Array) -> Params:
        """Fresh parameters of what is trained."""
        return self._part(self._functional.init(rng), trained=True)

    def frozen_shapes(self) -> Params:
        """What is not trained."""
        shapes = jax.eval_shape(self._functional.init, jax.random.key(0))
        return self._part(shapes, trained=False)

    def load_frozen(self, shardings: Params) -> Params:
        """The backbone's pretrained parameters; InputError if they do not fit its modules."""
        wanted = flatten_dict(self.frozen_shapes(), sep="/")
        if not wanted:
            return {}
        loaded = self.backbone.load(shardings.get("model"))
        have = {} if loaded is None else flatten_dict({"model": loaded}, sep="/")
        wrong = [
            f"{path}: {list(have[path].shape) if path in have else 'missing'}, wanted {list(leaf.shape)}"
            for path, leaf in wanted.items()
            if path not in have or have[path].shape != leaf.shape
        ]
        if wrong:
            raise InputError(
                f"the weights of {self.backbone.name} do not fit:\n  " + "\n  ".join(wrong[:20])
            )
        where = flatten_dict(shardings, sep="/")
        placed = {
            path: jax.device_put(have[path].astype(leaf.dtype, copy=False), where[path])
            for path, leaf in wanted.items()
        }  # without effect on those that the backbone has placed
        return unflatten_dict(placed, sep="/")

    def embeddings(self, ids: NDArray[np.integer]) -> NDArray[np.float32]:
        """How the pretrained language model reads ids [n]: its embeddings [n, d]."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        frozen = self.load_frozen(jax.tree.map(lambda _: here, self.frozen_shapes()))
        bridge = self.bind(merge_params(self.init(jax.random.key(0)), frozen))
        return np.array(bridge.model.embed(jnp.asarray(ids)[None])[0], np.float32)

    def _part(self, params: Params, trained: bool) -> Params:
        flat = flatten_dict(params, sep="/")
        chosen = {path: leaf for path, leaf in flat.items() if self.is_trained(path) == trained}
        return unflatten_dict(chosen, sep="/")

    def is_trained(self, path: str) -> bool:
        """Whether the parameter of a "/"-path belongs to the state."""
        if _OURS.search(path):
            return True
        own, pattern = path.removeprefix("model/"), self.backbone.trainable
        return bool(pattern) and re.search(pattern, own) is not None

    def loss(
        self, params: Params, batch: Batch, rng: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean over rows of the mean over the answer's ids, as batches of one accumulate.

        Metrics: `token_accuracy` of the ids; `answer_accuracy`, the rows all of whose ids come first
        when the right ids before them are given.
        """
        scores = self._scores(params, batch, rng if train else None)
        weight, ids = batch["answer_weight"], batch["answer_ids"]
        count = jnp.maximum(weight.sum(axis=1), 1.0)
        entropy = optax.softmax_cross_entropy_with_integer_labels(scores, ids)
        right = (jnp.argmax(scores, axis=-1) == ids) | (weight == 0)
        metrics = {
            "token_accuracy": jnp.mean(jnp.sum(right * weight, axis=1) / count),
            "answer_accuracy": jnp.mean(jnp.all(right, axis=1)),
        }
        return jnp.mean(jnp.sum(entropy * weight, axis=1) / count), metrics

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """The most likely id at each place of the answer, the right ids before it given."""
        return {"answer_ids": jnp.argmax(self._scores(params, batch, None), axis=-1)}

    def samples(self, params: Params, batch: Batch) -> list[str]:
        """Question, right answer and greedy answer of the first rows of a batch."""
        from llm_bridge.generate import Asked

        heard = jax.device_get({name: value[:SAMPLES] for name, value in batch.items()})
        rows = rows_of_batch(heard, SAMPLES)
        asked = [
            Asked(replace(row, answer=()), heard["tokens"][i], heard["audio"][i])
            for i, row in enumerate(rows)
        ]
        text = self.backbone.tokenizer.decode
        return [
            f"{_question(text([i for i in row.prompt if i >= 0]))}\n    right: {text(row.answer)}\n    model: {said}"
            for row, said in zip(rows, self._sampler.answers(asked, params), strict=True)
        ]

    def draw(self, batch: Batch, folder: Path, rows: Sequence[int]) -> list[Exhibit]:
        """What is heard in some rows, with question and answer."""
        from llm_bridge.batch_figure import draw_batch, token_panels  # matplotlib

        return draw_batch(self, batch, folder, rows, token_panels)

    @functools.cached_property
    def _sampler(self) -> Generator:
        """Kept, because its programs take longer to compile than to run."""
        from llm_bridge.generate import Generator

        return Generator(self, max_new=self.answer_length, batch_size=SAMPLES)

    def _scores(self, params: Params, batch: Batch, key: jax.Array | None) -> jax.Array:
        """[b, answer_length, v]: only the answer's places go through the output layer."""
        bridge = self.bind(params)
        ids = batch["ids"]
        embeds = bridge.embed(ids, batch["tokens"], batch["audio"])
        hidden, _ = bridge.model(embeds, ids, batch["positions"], batch["valid"], None, key)
        asked = jnp.take_along_axis(hidden, batch["answer_slots"][..., None], axis=1)
        return bridge.model.logits(asked)

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch; see `llm_bridge.stream.QuestionStream`."""
        row, answer = (batch_size, self.length), (batch_size, self.answer_length)
        leaves: dict[str, tuple[tuple[int, ...], Any]] = {
            "ids": (row, jnp.int32),
            "positions": (row, jnp.int32),
            "valid": (row, jnp.bool_),
            "answer_slots": (answer, jnp.int32),
            "answer_ids": (answer, jnp.int32),
            "answer_weight": (answer, jnp.float32),
            "tokens": ((batch_size, *self.spatial_shape), jnp.float32),
            "audio": ((batch_size, self.mono_soft, self.backbone.audio_width), jnp.float32),
        }
        return {name: jax.ShapeDtypeStruct(*leaf) for name, leaf in leaves.items()}
