"""Patching Hugging Face models by role, with a proof for each module and a way back."""

from .apply import patch
from .flags import FLAGS
from .handle import Handle, Report, Row

__all__ = ["FLAGS", "Handle", "Report", "Row", "patch"]
