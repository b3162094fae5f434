# SPDX-License-Identifier: Apache-2.0
"""From a training run to a released checkpoint: calibrate, measure, write the files and the card."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from phasecoder.plus import PlusConfig
from phasecoder.posterior import CONFIDENT_WITHIN
from phasecoder.pretrained import Encoder, save_pretrained
from phasecoder.task import PhaseCoderTask
from phasecoder.trained import load_run
from spatial_core.data.pipeline import CropStream
from spatial_core.errors import InputError
from spatial_core.eval.baselines import Localizer
from spatial_core.eval.calibration import reliability
from spatial_core.eval.loop import evaluate
from spatial_core.eval.steered import SteeredResponse
from spatial_core.geometry.coords import azimuth_error
from spatial_core.typing import Batch, Params

TEMPERATURES = np.geomspace(0.5, 2.5, 33)


def fit_temperature(
    task: PhaseCoderTask, params: Params, batches: Sequence[Batch]
) -> tuple[float, dict[str, float]]:
    """Temperature of the posterior at which the confidence is true, and its error before and after.

    The confidence claims that the azimuth error is at most 10 degrees; the temperature that gives
    those claims the highest likelihood over the clips with speech is chosen. Angles hardly move.
    """
    forward = jax.jit(task.apply)

    @jax.jit
    def claims(logits, temperature):
        model = dataclasses.replace(task.model, temperature=temperature)
        answer = dataclasses.replace(task, model=model).decode(logits)
        return answer["azimuth"], answer["confidence"]

    rows = [(forward(params, _inputs(batch)), batch) for batch in batches]

    def measure(temperature: float) -> tuple[float, float]:
        hits, said = [], []
        for logits, batch in rows:
            azimuth, confidence = claims(logits, jnp.float32(temperature))
            error = azimuth_error(np.asarray(azimuth), batch["azimuth"])
            hits.append((error <= CONFIDENT_WITHIN)[batch["speech"]])
            said.append(np.asarray(confidence)[batch["speech"]])
        hit, confidence = np.concatenate(hits), np.clip(np.concatenate(said), 1e-4, 1 - 1e-4)
        loss = -np.mean(np.log(np.where(hit, confidence, 1 - confidence)))
        return float(loss), float(reliability(confidence, hit).ece)

    losses = [measure(t)[0] for t in TEMPERATURES]
    best = float(TEMPERATURES[int(np.argmin(losses))])
    return best, {
        "calibration_error_before": measure(1.0)[1],
        "calibration_error": measure(best)[1],
    }


@dataclasses.dataclass(frozen=True)
class ReleaseConfig:
    """What a release is made of.

    run: folder of the training run. calibration: validation scenes for the temperature. test:
    title -> held-out scenes that the card's tables are measured on. about: Markdown file that says
    how the model was trained, on what data and under which licences; it opens the card. name: None
    is the run's.
    """

    run: str
    calibration: CropStream
    test: dict[str, CropStream]
    about: str
    name: str | None = None
    calibration_clips: int = 2048
    test_clips: int = 2048

    def build(self, out: str | Path) -> Path:
        """Write the released checkpoint to ``out``; returns the folder.

        Raises:
          InputError: the run or the text is missing, or the calibration scenes are not the
            validation split.
        """
        about = Path(self.about)
        if not about.is_file():
            raise InputError(
                f"ReleaseConfig.about: {about} is not a file; write how it was trained"
            )
        if self.calibration.split != "validation":
            raise InputError(
                f"ReleaseConfig.calibration draws from {self.calibration.split!r}: use 'validation'"
            )
        encoder = load_run(self.run)
        task, params = encoder.task, dict(encoder.params)
        if not isinstance(task, PhaseCoderTask):
            raise InputError(
                f"{self.run} did not train a PhaseCoder task, but a {type(task).__name__}"
            )
        info: dict[str, object] = {"checkpoint": encoder.name}
        if isinstance(task.model, PlusConfig):
            steps = -(-self.calibration_clips // self.calibration.batch_size)
            batches = [self.calibration.batch(step) for step in range(steps)]
            temperature, fit = fit_temperature(task, params, batches)
            print(f"temperature {temperature:.3f}: {fit}", flush=True)
            model = dataclasses.replace(task.model, temperature=round(temperature, 4))
            task = dataclasses.replace(task, model=model)
            info["calibration"] = fit
        name = self.name or Path(self.run).name
        released = Encoder(task, params, {"name": name})
        card = [about.read_text(encoding="utf-8").strip()]
        for title, stream in self.test.items():
            localizers: dict[str, Localizer] = {
                name: released,
                "steered response (SRP-PHAT)": SteeredResponse(),
            }
            report = evaluate(localizers, stream, self.test_clips, title=title, show_paper=True)
            report.save(Path(self.run) / "reports" / title.replace(" ", "_"), "auto")
            card.append(report.to_markdown().replace("\n## ", "\n### ").replace("# ", "## ", 1))
        text = "\n\n".join(card)
        return save_pretrained(out, params, task.model, text, name=name, info=info)


def _inputs(batch: Batch) -> Batch:
    return {key: batch[key] for key in ("audio", "mic_positions", "mic_mask")}
