# SPDX-License-Identifier: Apache-2.0
"""The encoder competition: the same scenes and the same CPU time for every candidate.

    python benchmarks/encoders.py --candidate=plus --cpu_seconds=300 --out=runs/encoders
    python benchmarks/encoders.py --plot --out=runs/encoders

Each candidate trains on simulated rooms (4 to 8 microphones at random, RT60 up to 0.5 s, no
distractor) for the same process CPU time, data included, and is measured on rooms, geometries and
speakers held out from training. Curves go to OUT/<candidate>.json; --plot draws them all.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from phasecoder.paper import SIZES
from phasecoder.plus import PlusConfig
from phasecoder.relative import RelativeConfig
from phasecoder.task import PhaseCoderTask
from spatial_core.data.pipeline import SceneStream
from spatial_core.geometry.coords import azimuth_error
from spatial_core.sim.scene import SceneConfig

CANDIDATES = {
    "paper_s": (SIZES["s"], 3e-4),
    "relative": (RelativeConfig(), 1e-3),
    # Without the mask, which a few minutes cannot teach.
    "plus": (PlusConfig(mask_width=0), 1e-3),
}
_CANDIDATE = flags.DEFINE_enum("candidate", "plus", list(CANDIDATES), "What to train.")
_CPU_SECONDS = flags.DEFINE_float("cpu_seconds", 300.0, "Process CPU time of the training.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Examples of a step.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Instead of the candidate's own.")
_SPEECH = flags.DEFINE_string("speech", "embedded", "Speech source, as SceneStream.speech.")
_ARRAY = flags.DEFINE_string("array", None, "One array (preset or JSON) instead of random ones.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the weights and the training scenes.")
_OUT = flags.DEFINE_string("out", "runs/encoders", "Folder of the curves.")
_PLOT = flags.DEFINE_bool("plot", False, "Draw the curves in OUT instead of training.")
CHECKPOINTS = (0.06, 0.125, 0.25, 0.5, 0.75, 1.0)


def stream(split: str, seed: int) -> SceneStream:
    """Random arrays of 4 to 8 microphones in moderately reverberant rooms, without distractor."""
    scene = SceneConfig(min_mics=4, max_mics=8, max_rt60=0.5, distractor=False, speech_dropout=0.0)
    return SceneStream(
        scene=scene,
        array=_ARRAY.value,
        speech=_SPEECH.value,
        split=split,
        seed=seed,
        batch_size=_BATCH.value,
    )


def measure(task: PhaseCoderTask, params, batches) -> dict[str, float]:
    """Azimuth errors on the held-out batches."""
    predict = jax.jit(task.predict)
    errors = np.concatenate(
        [azimuth_error(np.asarray(predict(params, b)["azimuth"]), b["azimuth"]) for b in batches]
    )
    return {
        "median": float(np.median(errors)),
        "mean": float(errors.mean()),
        "acc_at_10": float((errors <= 10).mean()),
    }


def train_for(task: PhaseCoderTask, peak: float, seconds: float) -> list[dict[str, float]]:
    """Train until the process has used ``seconds`` of CPU; measuring does not count."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.adamw)(learning_rate=peak, weight_decay=0.01),
    )
    held_out = [stream("validation", 0).batch(step) for step in range(8)]
    params = jax.jit(task.init)(jax.random.key(_SEED.value))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch, key, rate):
        grads, metrics = jax.grad(task.loss, has_aux=True)(params, batch, key, True)
        state[1].hyperparams["learning_rate"] = rate
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, metrics

    curve, spent, examples, due = [], 0.0, 0, list(CHECKPOINTS)
    started = None
    for index, batch in enumerate(stream("train", _SEED.value).iterate()):
        # Warm-up over the first 3% of the time, then a cosine to 2% of the peak: by time, since
        # candidates take a different number of steps.
        share = spent / seconds
        rate = peak * min(1.0, share / 0.03) * (0.02 + 0.49 * (1 + np.cos(np.pi * min(1, share))))
        key = jax.random.fold_in(jax.random.key(_SEED.value), index)
        fields = {k: batch[k] for k in task.example_batch(1)}
        params, state, _ = step(params, state, fields, key, jnp.float32(max(rate, 1e-6)))
        jax.block_until_ready(params)
        examples += len(batch["azimuth"])
        now = time.process_time()
        spent += 0.0 if started is None else now - started  # the first step compiles
        started = now
        if spent / seconds >= due[0]:
            row = {"cpu_seconds": spent, "examples": examples, "steps": index + 1}
            curve.append({**row, **measure(task, params, held_out)})
            print(json.dumps(curve[-1]), flush=True)
            due.pop(0)
            started = time.process_time()
        if not due:
            return curve
    return curve


def plot(folder: Path) -> None:
    """Median azimuth error over CPU time, one line a candidate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for path in sorted(folder.glob("*.json")):
        curve = json.loads(path.read_text())["curve"]
        x, y = ([row[k] for row in curve] for k in ("cpu_seconds", "median"))
        axis.plot(x, y, marker="o", label=path.stem)
    axis.set(xlabel="CPU seconds (data included)", ylabel="median azimuth error (degrees)")
    axis.set_yscale("log")
    axis.axhline(90, color="0.7", linewidth=0.8)
    axis.annotate("chance", (0, 90), color="0.5", va="bottom")
    axis.grid(True, which="both", alpha=0.25)
    axis.legend(frameon=False)
    figure.savefig(folder / "encoders.png", dpi=150)


def main(argv: list[str]) -> None:
    """Train one candidate, or draw what there is."""
    del argv
    folder = Path(_OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    if _PLOT.value:
        plot(folder)
        return
    model, rate = CANDIDATES[_CANDIDATE.value]
    rate = _LEARNING_RATE.value or rate
    task = PhaseCoderTask(model)
    curve = train_for(task, rate, _CPU_SECONDS.value)
    record = {"candidate": _CANDIDATE.value, "learning_rate": rate, "seed": _SEED.value}
    (folder / f"{_CANDIDATE.value}.json").write_text(
        json.dumps({**record, "curve": curve}, indent=1)
    )


if __name__ == "__main__":
    app.run(main)
