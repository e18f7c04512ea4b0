"""The networks, at any frame budget: clips_BCTHW -> logits_BK. Every module here with a `NETWORK` adds one."""

import warnings
from importlib import import_module
from pkgutil import iter_modules

warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # fvcore, at import

from framebudget.models.network import Network  # noqa: E402

_modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
_networks = [module.NETWORK for module in _modules if hasattr(module, "NETWORK")]
NETWORKS: dict[str, Network] = {network.key: network for network in _networks}
