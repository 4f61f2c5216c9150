"""Which device a loader brings its batches to, and why not to the one that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from archivestream.errors import CudaUnavailableError

if TYPE_CHECKING:
    import torch

__all__ = ["Choice", "choose_device"]


class Choice(NamedTuple):
    """A device, and why it is not the one that was hoped for.

    Attributes
    ----------
    device : torch.device or None
        None: batches stay where they are made.
    fallback : str
        Why ``"auto"`` came to be the CPU; else empty.
    """

    device: torch.device | None
    fallback: str = ""


def choose_device(device: Any) -> Choice:
    """Find the device that is meant by None, ``"auto"``, a name or a `torch.device`.

    Raises
    ------
    CudaUnavailableError
        If CUDA is asked for and is not there; it says why.
    ImportError
        If PyTorch is not installed.
    ValueError, TypeError
        If there is no such device, or it is neither CUDA nor the CPU.
    """
    if device is None:
        return Choice(None)
    wants_cuda = str(device).split(":")[0] == "cuda"
    # Nobody who does not ask for CUDA has it initialised, and his processes not to be forked any more.
    reason = _why_not() if wants_cuda or device == "auto" else ""
    if device == "auto":
        return Choice(None, reason) if reason else Choice(_current())
    if reason:
        raise CudaUnavailableError(
            f"device={str(device)!r} cannot be had: {reason}; device='auto' takes the CPU where there is no CUDA"
        )
    try:
        import torch
    except ImportError as error:
        raise ImportError("ArchiveLoader needs PyTorch: pip install 'archivestream[torch]'") from error

    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'cuda', 'cuda:N', 'cpu', 'auto' or None, not {device!r}") from error
    if found.type not in ("cuda", "cpu"):
        raise ValueError(f"batches are brought to CUDA devices or to the CPU, not to {found.type!r}")
    if found.type == "cuda" and found.index is None:
        return Choice(_current())
    if found.type == "cuda" and found.index >= torch.cuda.device_count():
        raise CudaUnavailableError(f"there is no device {found}: PyTorch finds {torch.cuda.device_count()} of them")
    return Choice(found)


def _current() -> torch.device:
    import torch

    return torch.device("cuda", torch.cuda.current_device())


def _why_not() -> str:
    """Return why there is no CUDA; nothing where there is."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed: pip install 'archivestream[torch]'"
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return f"this build of PyTorch ({torch.__version__}) has no CUDA: install one that has"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # no driver, one that is too old, a forked process, ...
        return str(error).strip().partition("\n")[0].rstrip(".")
    if torch.cuda.device_count():
        return ""
    return "PyTorch finds no CUDA device: see whether nvidia-smi lists one, and what CUDA_VISIBLE_DEVICES hides"
