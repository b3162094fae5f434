# SPDX-License-Identifier: Apache-2.0
"""Spatial tokens into a language model: token export, questions, training, answers, evaluation."""
