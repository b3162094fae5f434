# SPDX-License-Identifier: Apache-2.0
"""Phi-4-mini with the audio half of Phi-4-multimodal (Microsoft 2025, arXiv 2503.01743)."""
