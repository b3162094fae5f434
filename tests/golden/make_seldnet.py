# SPDX-License-Identifier: Apache-2.0
"""Writes seldnet.h5 and seldnet.npz: a small SELDNet in torch, as the DCASE 2024 baseline saves one.

    python tests/golden/make_seldnet.py        # torch 2.13.0 (CPU)

seldnet.h5: its parameters by the baseline's names, written by torch.save; the recurrent weights are
views into one storage, as they are after training on a GPU. seldnet.npz: `answer`, `tokens` for
`features()` by the stored statistics, `train_tokens` by the batch's own, and with `moved/NAME` the
running statistics after that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
CHANNELS, WIDTH, HEADS, CLASSES = 4, 16, 4, 2


def features() -> np.ndarray:
    """[3, 7, 27, 64]: levels around -40 dB and intensities; the last two frames fill no token."""
    maps = np.random.RandomState(0).randn(3, 7, 27, 64)
    maps[:, :4] = 10 * maps[:, :4] - 40
    maps[:, 4:] *= 0.01
    return maps.astype(np.float32)


def build():
    """The baseline's layers with small sizes and weights that no initialisation would give."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs):
            super().__init__()
            self.conv = nn.Conv2d(inputs, CHANNELS, 3, padding=1)
            self.bn = nn.BatchNorm2d(CHANNELS)

        def forward(self, x):
            return torch.relu(self.bn(self.conv(x)))

    class SeldNet(nn.Module):
        def __init__(self):
            super().__init__()
            layers = []
            for i, pool in enumerate(((5, 4), (1, 4), (1, 2))):
                layers += [Block(CHANNELS if i else 7), nn.MaxPool2d(pool), nn.Dropout2d(0.05)]
            self.conv_block_list = nn.ModuleList(layers)
            self.gru = nn.GRU(
                2 * CHANNELS, WIDTH, num_layers=2, batch_first=True, bidirectional=True
            )
            attention = [nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(2)]
            self.mhsa_block_list = nn.ModuleList(attention)
            self.layer_norm_list = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(2)])
            last = nn.Linear(WIDTH, 3 * 4 * CLASSES)
            self.fnn_list = nn.ModuleList([nn.Linear(WIDTH, WIDTH), last])

        def encode(self, x):
            for layer in self.conv_block_list:
                x = x if isinstance(layer, nn.Dropout2d) else layer(x)
            x = x.transpose(1, 2).flatten(2)
            x = torch.tanh(self.gru(x)[0])
            x = x[..., WIDTH:] * x[..., :WIDTH]
            for attention, norm in zip(self.mhsa_block_list, self.layer_norm_list):
                x = norm(x + attention(x, x, x, need_weights=False)[0])
            return x

        def forward(self, x):
            tokens = self.encode(x)
            return self.fnn_list[1](self.fnn_list[0](tokens)), tokens

    torch.manual_seed(0)
    model = SeldNet()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape) * 0.3)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return model


def share_storage(model) -> None:
    """Puts the recurrent weights into one storage, behind a gap that a reader must not take for them."""
    import torch

    weights = list(model.gru.parameters())
    whole = torch.full((sum(w.numel() for w in weights) + 7,), 99.0)
    place = 7
    for weight in weights:
        view = whole[place : place + weight.numel()].view(weight.shape)
        view.copy_(weight.data)
        weight.data = view
        place += weight.numel()


def main() -> None:
    """Computes and writes both files."""
    import torch

    model = build().eval()
    share_storage(model)
    torch.save(model.state_dict(), FOLDER / "seldnet.h5")
    # Standardized as the encoder does it: by the mean and deviation of every map and filter.
    x = torch.from_numpy(features())
    standard = (x - x.mean((0, 2), keepdim=True)) / x.std((0, 2), keepdim=True, correction=0)
    with torch.no_grad():
        answer, tokens = model(standard)
        train_tokens = model.train().encode(standard)
    moved = {
        f"moved/{name}": value.numpy()
        for name, value in model.state_dict().items()
        if "running" in name
    }
    arrays = {"answer": answer, "tokens": tokens, "train_tokens": train_tokens}
    np.savez_compressed(
        FOLDER / "seldnet.npz", **{name: x.numpy() for name, x in arrays.items()}, **moved
    )


if __name__ == "__main__":
    main()
