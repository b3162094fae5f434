# SPDX-License-Identifier: Apache-2.0
"""Questions about who speaks where, their answers in text, and the way back from text to values."""
