"""Build the seccomp filter of a box: pure functions from a specification to bytes."""

from vsbox.seccomp.bpf import simulate
from vsbox.seccomp.program import FilterSpec, build_filter, verdicts
from vsbox.seccomp.rules import PROBE_ERRNO, PROBE_OPTION

__all__ = ["PROBE_ERRNO", "PROBE_OPTION", "FilterSpec", "build_filter", "simulate", "verdicts"]

MACHINES = frozenset({"aarch64", "arm64", "x86_64"})
"""What ``uname -m`` may say where a filter can be built."""
