"""SlowFast R50 8×8 (Feichtenhofer, arXiv:1812.03982) as PyTorchVideo builds it, for any number of frames."""

import torch
from torch import Tensor, nn

from framebudget.models.network import ZOO, Network

ALPHA = 4  # the fast pathway sees all frames, the slow one a quarter of them


class SlowFast(nn.Module):
    """clips_BCTHW -> logits_BK; samples the slow pathway itself. Keys are PyTorchVideo's, unprefixed."""

    def __init__(self, classes: int):
        from pytorchvideo.models.slowfast import create_slowfast  # PyTorchVideo takes seconds to import

        from framebudget.models.layers import GlobalMean, SpatialMaxPool, faster

        super().__init__()
        stock = create_slowfast(model_num_class=classes)
        for pathway in stock.blocks[0].multipathway_blocks:
            pathway.pool = SpatialMaxPool()
        stock.blocks[-2].pool = nn.ModuleList([GlobalMean(), GlobalMean()])
        stock.blocks[-1].output_pool = nn.Flatten()
        self.blocks = faster(stock.blocks)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        x = self.pathways(clips_BCTHW)
        for block in self.blocks:
            x = block(x)
        return x

    @staticmethod
    def pathways(clips_BCTHW: Tensor) -> list[Tensor]:
        """The frames that the slow and the fast pathway see."""
        frames = slow_frames(clips_BCTHW.shape[2])
        if clips_BCTHW.is_cuda:  # indexing by a tensor would make the host wait, which a CUDA graph cannot
            return [torch.stack([clips_BCTHW[:, :, t] for t in frames.tolist()], 2), clips_BCTHW]
        return [clips_BCTHW[:, :, frames], clips_BCTHW]


def slow_frames(T: int) -> Tensor:
    """Which of T frames the slow pathway sees: ceil(T / 4), spread from the first to the last (PyTorchVideo's rule)."""
    return torch.linspace(0, T - 1, -(-T // ALPHA), device="cpu").long()


NETWORK = Network(
    "slowfast_r50", "SlowFast R50", SlowFast, "blocks.6.proj.", ZOO + "SLOWFAST_8x8_R50.pyth", cpu_bfloat16=True
)
