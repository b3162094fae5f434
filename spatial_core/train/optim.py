# SPDX-License-Identifier: Apache-2.0
"""AdamW with warm-up, cosine decay, clipping and an optional running average of the parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from spatial_core.errors import InputError
from spatial_core.train.partition import path_name


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) under a warm-up and decay schedule.

    The learning rate rises linearly from 0 to `peak_lr` over `warmup_steps`, then falls to `end_lr`
    at `decay_steps` (counted from step 0; None: the last step of the run) as a cosine or a line, or
    stays ("constant"). At each step in `restarts` the rate begins anew and has fallen by the next one
    (the stages of a curriculum). Weight decay acts on parameters with two or more dimensions whose path does
    not match `no_decay`. `clip_norm` bounds the global gradient norm (0: no clipping). `ema_decay`
    above 0 keeps an average of the parameters, which evaluation then uses. `frozen` lists path
    regexes of parameters that are not trained.
    """

    peak_lr: float = 1e-3
    end_lr: float = 0.0
    warmup_steps: int = 0
    decay_steps: int | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    restarts: tuple[int, ...] = ()
    weight_decay: float = 0.0
    no_decay: str = r"(^|/)(bias|scale)$"
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    ema_decay: float = 0.0
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "linear", "constant"):
            raise InputError(f"schedule {self.schedule!r}: use cosine, linear or constant")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}: it must be in [0, 1)")
        if self.peak_lr < 0 or self.end_lr < 0 or self.clip_norm < 0 or self.weight_decay < 0:
            raise InputError("peak_lr, end_lr, clip_norm and weight_decay cannot be negative")
        if list(self.restarts) != sorted({*self.restarts}) or min(self.restarts, default=1) < 1:
            raise InputError(f"restarts {self.restarts}: steps above 0 in ascending order")
        if self.decay_steps is not None and self.decay_steps < self.warmup_steps:
            raise InputError(
                f"decay_steps {self.decay_steps} ends before warmup_steps {self.warmup_steps}"
            )


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate as a function of the step, for a run of `steps` steps."""
    end = config.decay_steps if config.decay_steps is not None else steps
    if config.restarts and config.restarts[-1] >= end:
        raise InputError(f"restarts {config.restarts}: the schedule ends at step {end}")
    begins = jnp.asarray((0, *config.restarts), jnp.float32)
    ends = jnp.asarray((*config.restarts, end), jnp.float32)

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        stage = jnp.sum(step >= begins) - 1
        since, length = step - begins[stage], ends[stage] - begins[stage]
        warm = jnp.minimum((since + 1) / max(config.warmup_steps, 1), 1.0)
        span = jnp.maximum(length - config.warmup_steps, 1)
        done = jnp.clip((since - config.warmup_steps) / span, 0.0, 1.0)
        if config.schedule == "constant":
            return config.peak_lr * warm
        rest = 0.5 * (1 + jnp.cos(jnp.pi * done)) if config.schedule == "cosine" else 1 - done
        decayed = config.end_lr + (config.peak_lr - config.end_lr) * rest
        return jnp.where(since < config.warmup_steps, config.peak_lr * warm, decayed)

    return schedule


def make_optimizer(config: OptimizerConfig, params: Any) -> optax.GradientTransformation:
    """Clipping, Adam moments and weight decay, without the learning rate.

    The loop multiplies by the rate of the *step*, so that a skipped step does not shift the schedule.
    `params` (arrays or shapes) settles which leaves decay and which are frozen.
    """
    names = jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), params)
    decays = jax.tree.map(
        lambda name, leaf: leaf.ndim >= 2 and not re.search(config.no_decay, name), names, params
    )
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=decays))
    optimizer = optax.chain(*parts)
    if not config.frozen:
        return optimizer
    labels = jax.tree.map(
        lambda name: "frozen" if any(re.search(p, name) for p in config.frozen) else "trained",
        names,
    )
    if "frozen" not in jax.tree.leaves(labels):
        raise InputError(
            f"frozen {config.frozen} matches no parameter path; see --dry_run for them"
        )
    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
