"""The weights that a training starts from: a file, or brought from the network once and kept in torch's cache."""

import hashlib
from pathlib import Path

from framebudget.sources.download import download

ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
KINETICS400 = {"x3d_m": ZOO + "X3D_M.pyth", "slowfast_r50": ZOO + "SLOWFAST_8x8_R50.pyth"}


def local(given: str, model: str) -> Path:
    """The file that `weights` in params.yaml stands for. Raises DownloadError, or FileNotFoundError."""
    url, path = cached(given, model)
    if url:
        download(url, path)
    elif not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such weight file; a file, a URL, kinetics400 or null (weights in params.yaml)"
        )
    return path


def cached(given: str, model: str) -> tuple[str | None, Path]:
    """Where `weights` in params.yaml come from, if that is the network, and where they lie, then or already."""
    url = KINETICS400[model] if given == "kinetics400" else given
    if not url.startswith(("http://", "https://")):
        return None, Path(given)
    import torch  # for where its cache lies; fetch has no other use of it

    name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{url.rsplit('/', 1)[1]}"
    return url, Path(torch.hub.get_dir(), "checkpoints", name)
