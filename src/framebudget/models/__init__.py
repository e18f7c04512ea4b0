"""The networks, at any frame budget: clips_BCTHW -> logits_BK. Each has a module with a `NETWORK`."""

import warnings

from framebudget.models import slowfast, x3d
from framebudget.models.network import Network

warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # fvcore, at import

NETWORKS: dict[str, Network] = {module.NETWORK.key: module.NETWORK for module in (slowfast, x3d)}
