# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n: text decoder, audio encoder, weights and tokenizer."""
