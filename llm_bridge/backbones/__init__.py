# SPDX-License-Identifier: Apache-2.0
"""Language models that the bridge can use."""
