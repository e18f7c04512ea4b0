"""`from framebudget.video.compat import transforms`: pytorchvideo.transforms, importable on today's torchvision.

It asks for a module that torchvision renamed in 0.17 (pytorchvideo#258; never mended in a release).
"""

import sys

from torchvision.transforms import _functional_tensor

sys.modules.setdefault("torchvision.transforms.functional_tensor", _functional_tensor)

from pytorchvideo import transforms  # noqa: E402, F401
