"""Whether esmerge can work here: one module per thing that is looked at."""

from esm_core.doctor.check import Check, Status

__all__ = ["Check", "Status"]
