"""Set up torch to give the same bits every time, and silence the log messages and warnings of other packages."""

import contextlib
import ctypes
import logging
import warnings

import pytorch_lightning as pl
import torch

LOUD = "pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "mlflow"  # loggers
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def prepare(seed: int, threads: int | None = None) -> None:
    """Seed everything, and allow only deterministic algorithms. threads: of torch; None leaves them as they are."""
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="pytorchvideo")
    warnings.filterwarnings("ignore", "Grad strides do not match")  # the weights are channels last
    pl.seed_everything(seed, verbose=False)
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory before writing it
    # make glibc keep all memory that a step frees, instead of returning it and faulting it in at the next step: this
    # saves a quarter to a half of an X3D-M step on a 2-core CPU
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
