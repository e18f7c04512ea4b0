"""X3D-M (Feichtenhofer, arXiv:2004.04730) as PyTorchVideo builds it, for any number of frames, without its softmax."""

from torch import nn

from framebudget.models.network import ZOO, Network


def x3d(classes: int) -> nn.Module:
    """clips_BCTHW -> logits_BK, with PyTorchVideo's state dict keys. X3D-XS and X3D-S are the same network.

    The stock head averages over a fixed 16×7×7 window and ends in a softmax, in training too. A cross-entropy on top
    takes the softmax of a softmax, which for 5 classes cannot fall below 0.905. Here the mean takes any size, and the
    output is logits. torch's SiLU replaces PyTorchVideo's Swish, which keeps its input and takes three passes.
    """
    from pytorchvideo.models.x3d import create_x3d  # PyTorchVideo takes seconds to import

    from framebudget.models.layers import GlobalMean, faster

    network = create_x3d(input_clip_length=16, input_crop_size=224, model_num_class=classes, inner_act=nn.SiLU)
    head = network.blocks[-1]
    head.pool.pool = GlobalMean()
    head.activation = None
    head.output_pool = nn.Flatten()
    return faster(network)


NETWORK = Network("x3d_m", "X3D-M", x3d, head="blocks.5.proj.", zoo=ZOO + "X3D_M.pyth", softmax=True)
