"""The AppArmor profiles of a box: as they should be, as they are installed, and how to install them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import msgspec

from vsbox.box.layout import Layout
from vsbox.box.quoting import quote_posix
from vsbox.box.store import compile_for, gather, load_policy
from vsbox.host.apparmor import installed
from vsbox.host.facts import HostFacts
from vsbox.plan.apparmor import profile_text, with_launcher_profile
from vsbox.plan.profile_names import installed_path, launcher_profile, payload_profile


@dataclass(frozen=True)
class Profiles:
    """The profiles of a box as they should be, and as they are."""

    root: str
    text: str
    installed: str | None
    facts: HostFacts

    @property
    def path(self) -> str:
        """Where they belong."""
        return installed_path(self.root)

    @property
    def commands(self) -> tuple[str, ...]:
        """What installs them, for a shell."""
        box, place = quote_posix(self.root), quote_posix(self.path)
        text = f"profile=$(vsbox apparmor --ignore-profile-diffs {box} 2>/dev/null)"  # of nothing, nothing is installed
        return (
            f"{text} && printf '%s\\n' \"$profile\" | sudo tee {place} >/dev/null",
            f"sudo apparmor_parser --replace {place}",
            f"vsbox sync {box}",
        )

    @property
    def difference(self) -> str:
        """What installing would change."""
        if self.installed is None:
            return ""
        before, after = (text.splitlines(keepends=True) for text in (self.installed, self.text))
        return "".join(difflib.unified_diff(before, after, self.path, "as it should be"))

    @property
    def loaded(self) -> dict[str, bool]:
        """Whether the kernel enforces them, by name."""
        modes = self.facts.apparmor.profiles if self.facts.apparmor else {}
        names = (launcher_profile(self.root), payload_profile(self.root))
        return {name: modes.get(name) == "enforce" for name in names}

    @property
    def complaints(self) -> tuple[str, ...]:
        """What keeps the profile from being applied, besides differences."""
        if self.facts.apparmor is None or not self.facts.apparmor.enabled:
            return ("AppArmor is not enabled on this machine: nothing can be loaded",)
        missing = tuple(f"{name} is not loaded and enforced" for name, loaded in self.loaded.items() if not loaded)
        return (*(() if self.installed is not None else (f"{self.path} is not installed, or not readable",)), *missing)


def profiles_of(layout: Layout) -> Profiles:
    """Return the profiles of a box.

    Raises:
        VsboxError: its policy cannot be carried out on this machine, or a path cannot be named in a profile.
    """
    # A policy that requires them must not keep them from being made.
    policy = msgspec.structs.replace(load_policy(layout), apparmor="off")
    facts, box = gather(layout, policy)
    compiled = compile_for(layout, policy, with_launcher_profile(facts, box.root), box)
    plans = (compiled.plan, *((compiled.installing,) if compiled.installing else ()))
    return Profiles(box.root, profile_text(plans, facts, box), installed(installed_path(box.root)), facts)
