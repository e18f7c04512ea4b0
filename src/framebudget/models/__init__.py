"""The networks, at any frame budget: clips_BCTHW -> logits_BK. Every module here with a `NETWORK` adds one."""

import warnings
from importlib import import_module
from pkgutil import iter_modules

from framebudget.models.network import Network

warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # fvcore, at import

PARTS = "gpu", "layers", "replay"  # of networks; they import PyTorchVideo, which takes seconds

_modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__) if found.name not in PARTS]
_networks = [module.NETWORK for module in _modules if hasattr(module, "NETWORK")]
NETWORKS: dict[str, Network] = {network.key: network for network in _networks}
