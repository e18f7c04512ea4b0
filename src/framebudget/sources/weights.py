"""The weights that a training starts from: a file, or a download that torch's cache keeps."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from framebudget.sources.download import DownloadError, download


def local(given: str, zoo: str | None) -> Path:
    """The file for `weights` in params.yaml. Downloads it if needed. zoo: the network's URL for `kinetics400`.

    Raises DownloadError.
    """
    url, path = cached(given, zoo)
    if url:
        download(url, path)
    elif not path.is_file():
        way_out = "weights in params.yaml takes a file, a URL, kinetics400 or null"
        raise DownloadError(f"{path}: no such weight file; {way_out}")
    return path


def cached(given: str, zoo: str | None) -> tuple[str | None, Path]:
    """The URL of these weights, None for a file, and the path where they are, or will be after the download."""
    url = zoo if given == "kinetics400" else given
    if url is None:
        raise DownloadError("weights: there is no kinetics400 for this network; name a file or a URL in params.yaml")
    if not url.startswith(("http://", "https://")):
        return None, Path(given)
    import torch  # only to locate its cache

    name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{Path(urlsplit(url).path).name}"
    return url, Path(torch.hub.get_dir(), "checkpoints", name)
