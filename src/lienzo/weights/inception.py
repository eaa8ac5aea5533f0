"""FID's Inception on disk: the state dict that pytorch-fid and torch-fidelity publish, in a file or on the hub."""

from dataclasses import dataclass
from pathlib import Path

import torch

from lienzo.errors import FormatError
from lienzo.models.bundle import tensors_digest
from lienzo.models.inception import Inception
from lienzo.weights.meta import without_memory
from lienzo.weights.model import checked
from lienzo.weights.read import read

MARK = "Mixed_7c.branch_pool.conv.weight"
"""A key by which the file is told from others."""
COUNTER = ".num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class LoadedInception:
    """FID's Inception, ready to use.

    Attributes:
        digest: SHA-256 of the weights as they are in the file, without the classifier.
    """

    name: str
    model: Inception
    digest: str


def load_inception(path: Path, *, device: str | torch.device = "cpu") -> LoadedInception:
    """Load FID's Inception from a state dict (`.pth` or `.safetensors`); TorchScript, which is code, is refused.

    Raises:
        WeightsError: another file, or tensors that do not fit.
    """
    checkpoint = read(path)
    if MARK not in checkpoint.tensors:
        raise FormatError(
            f"{path}: not the Inception that FID uses. Expected the state dict that pytorch-fid publishes "
            "(pt_inception-2015-12-05-6726825d.pth); its TorchScript twin is code, and is not run."
        )
    given = {
        key: value
        for key, value in checkpoint.tensors.items()
        if not key.startswith("fc.") and not key.endswith(COUNTER)  # the classifier, and what only training counts
    }
    with without_memory():
        network = Inception()
    want = {key: value for key, value in network.state_dict().items() if not key.endswith(COUNTER)}
    tensors = checked(str(path), want, given)
    digest = tensors_digest(tensors)
    values = {key: value.to(device, torch.float32).contiguous() for key, value in tensors.items()}
    counters = {key: torch.zeros((), dtype=torch.int64) for key in network.state_dict() if key.endswith(COUNTER)}
    network.load_state_dict({**values, **counters}, strict=True, assign=True)
    network.eval().requires_grad_(False)
    return LoadedInception(name=path.name, model=network, digest=digest)
