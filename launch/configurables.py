# SPDX-License-Identifier: Apache-2.0
"""The classes and functions that gin files may name."""

from __future__ import annotations

import importlib

from spatial_core.config import gin_setup

# module -> names ("name" or "name in gin files=name in the module"). A gin file refers to them by name
# alone; every name is therefore unique.
CONFIGURABLES: dict[str, tuple[str, ...]] = {
    "launch.inspect": ("inspect_training",),
    "spatial_core.train.config": ("TrainConfig",),
    "spatial_core.train.optim": ("OptimizerConfig",),
    "spatial_core.train.precompile": ("precompile",),
    "spatial_core.train.partition": ("MeshConfig",),
    "spatial_core.train.on_device": ("OnDeviceTask",),
    "spatial_core.geometry.arrays": ("load_array",),
    "spatial_core.sim.rooms": ("RoomConfig",),
    "spatial_core.sim.scene": ("SceneConfig",),
    "spatial_core.sim.inspect": ("inspect_scenes",),
    "spatial_core.sim.jax_engine": ("JaxSimulator",),
    "spatial_core.data.pipeline": ("SceneStream",),
    "spatial_core.data.device": ("DeviceStream",),
    "spatial_core.data.bank": ("BankConfig", "BankStream"),
    "spatial_core.data.sources": ("SourceSpec",),
    "spatial_core.eval.loop": ("EvalConfig",),
    "spatial_core.eval.baselines": ("PyroomSrpPhat", "PyroomNormMusic", "SteeredResponse"),
    "phasecoder.task": ("PhaseCoderTask",),
    "phasecoder.paper": ("PaperConfig",),
    "phasecoder.plus": ("PlusConfig",),
    "phasecoder.relative": ("RelativeConfig",),
    "phasecoder.pretrained": ("load_encoder=load", "pretrained_task", "pretrained_params"),
    "phasecoder.release": ("ReleaseConfig",),
    "phasecoder.quickstart_config": ("QuickstartConfig",),
    "llm_bridge.conversations": ("ConversationConfig",),
    "llm_bridge.tokens.clips": ("ConversationSource", "RecordingSource"),
    "llm_bridge.tokens.export": ("ExportConfig",),
    "llm_bridge.evaluate": ("BridgeEvalConfig",),
    "llm_bridge.task": ("BridgeTask",),
    "llm_bridge.align": ("bridge_start=initial_params",),
    "llm_bridge.stream": ("QuestionStream",),
    "llm_bridge.lora": ("LoraConfig",),
    "llm_bridge.backbones.tiny": ("TinyBackbone",),
    "llm_bridge.backbones.smollm": ("SmolLMBackbone",),
    "llm_bridge.backbones.gemma3": ("Gemma3Backbone",),
    "llm_bridge.backbones.gemma3n.backbone": ("Gemma3nBackbone",),
    "llm_bridge.backbones.phi4.backbone": ("Phi4Backbone",),
    "spatial_core.sim.ambisonic": ("AmbisonicSimulator",),
    "sciphi.rooms": ("FoaRoomConfig",),
    "sciphi.scenes": ("FoaSceneConfig",),
    "sciphi.scene_set": ("SceneSetConfig",),
    "sciphi.evaluate": ("SceneEvalConfig",),
    "sciphi.seldnet": ("SeldNetConfig",),
    "sciphi.seld_task": ("SeldStream", "SeldTask"),
    "sciphi.seld_eval": ("SeldEvalConfig",),
    "sciphi.task": ("DescribeTask",),
    "sciphi.stream": ("DescribeStream",),
    "sciphi.backbone": ("TinyDescriber",),
    "sciphi.trained": ("describer_start=initial_params",),
}


def register_all() -> None:
    """Imports the modules above and makes their names known to gin."""
    for module, names in CONFIGURABLES.items():
        loaded = importlib.import_module(module)
        for entry in names:
            name, _, attribute = entry.partition("=")
            gin_setup.register(**{name: getattr(loaded, attribute or name)})
