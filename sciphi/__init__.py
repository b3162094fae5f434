# SPDX-License-Identifier: Apache-2.0
"""Sci-Phi: what sounds where in a first-order Ambisonics recording, told by a language model."""
