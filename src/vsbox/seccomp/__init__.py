"""Build the seccomp filter of a box: pure functions from a specification to bytes."""

from vsbox.seccomp.allowed import ALLOWED, allowed_calls, parse_names, reason
from vsbox.seccomp.bpf import simulate
from vsbox.seccomp.program import FilterSpec, build_filter, told_refusals, verdicts
from vsbox.seccomp.rules import PROBE_ERRNO, PROBE_OPTION

__all__ = [
    "ALLOWED", "PROBE_ERRNO", "PROBE_OPTION", "FilterSpec", "allowed_calls", "build_filter", "parse_names", "reason",
    "simulate", "told_refusals", "verdicts",
]  # fmt: skip

MACHINES = frozenset({"aarch64", "arm64", "x86_64"})
"""What ``uname -m`` may say where a filter can be built."""
