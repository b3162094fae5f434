# SPDX-License-Identifier: Apache-2.0
"""The trained describers that ship, and what a release of one is."""

from __future__ import annotations

from pathlib import Path

from spatial_core.io import export
from spatial_core.io.shipped import Shipped

RELEASE = export.Kind("sciphi-describer/1", "describer.safetensors", "describer.json")
SHIPPED = Shipped(
    Path(__file__).parent / "pretrained",
    RELEASE.config,
    what="trained describer",
    default="tiny",
    missing="train one (--run_mode=train --gin_file=experiments/sciphi_tiny.gin) and give its folder",
)
