# SPDX-License-Identifier: Apache-2.0
"""Spatial tokens on disk: the encoder runs once, and what comes after reads its answers."""
