"""``vsbox doctor``."""

from __future__ import annotations

import sys

import click

from vsbox.backends import BACKENDS, choose
from vsbox.cli.output import print_json, print_table
from vsbox.errors import CannotEnforceError
from vsbox.host.collect import collect
from vsbox.host.facts import HostFacts
from vsbox.plan.aspects import Situation, lacking
from vsbox.policy.model import Policy
from vsbox.policy.presets import with_preset

TITLES = {
    "landlock": "Landlock ABI",
    "user_namespace": "user namespaces",
    "bind": "bind mounts",
    "pivot_root": "change of root",
    "proc": "fresh /proc",
    "network_namespace": "network namespaces",
    "cgroup_namespace": "cgroup namespaces",
    "seccomp": "seccomp filters",
    "seccomp_listener": "seccomp notifications",
    "pidfd_getfd": "pidfd_getfd(2)",
    "proc_children": "lists of child processes",
    "openat2": "openat2(2)",
    "close_range": "close_range(2)",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(*, as_json: bool) -> None:
    """Tell what this machine offers, which tier boxes will use and why, and what is missing.

    Everything is found out by doing it in a child process. Exit status 1: nothing can confine here.
    """
    facts = collect()
    report = _report(facts)
    if as_json:
        print_json(report)
    else:
        _print(facts, report)
    sys.exit(0 if report["uses"] else 1)


def _report(facts: HostFacts) -> dict[str, object]:
    try:
        chosen: str | None = choose("auto", facts).backend.name
        refusal = None
    except CannotEnforceError as error:
        chosen, refusal = None, f"{error}; {error.hint}"
    policy = with_preset(Policy(venv_root="/"))
    backends = []
    for backend in BACKENDS:
        missing = backend.missing(facts)
        gaps = () if missing else lacking(Situation(backend.tier, facts, policy))
        backends.append(
            {
                "name": backend.name,
                "summary": backend.summary,
                "works": not missing,
                "missing": [{"what": item.what, "remedy": item.remedy} for item in missing],
                "cannot_enforce": [{"aspect": row.aspect.value, "advice": row.advice} for row in gaps],
            }
        )
    return {
        "system": facts.system,
        "kernel": facts.kernel,
        "machine": facts.machine,
        "user": facts.uid,
        "probes": facts.probes,
        "backends": backends,
        "uses": chosen,
        "refusal": refusal,
    }


def _print(facts: HostFacts, report: dict[str, object]) -> None:
    click.echo(f"{facts.system} {facts.kernel} on {facts.machine}, uid {facts.uid}\n")
    rows = [(TITLES.get(name, name), answer if answer.isdigit() else "ok" if answer == "ok" else f"missing ({answer})")
            for name, answer in facts.probes.items()]  # fmt: skip
    print_table("This machine offers", ("what", "state"), rows)
    click.echo()
    for backend in report["backends"]:  # type: ignore[attr-defined]
        mark = "used" if backend["name"] == report["uses"] else "works" if backend["works"] else "does not work"
        click.echo(f"{backend['name']:10} {mark}: {backend['summary']}")
        for item in backend["missing"]:
            click.echo(f"           lacks {item['what']}" + (f"; add it: {item['remedy']}" if item["remedy"] else ""))
        for gap in backend["cannot_enforce"]:
            click.echo(f"           cannot enforce {gap['aspect']}; needs {gap['advice']}")
    click.echo(f"\n{_conclusion(report)}")


def _conclusion(report: dict[str, object]) -> str:
    if report["refusal"]:
        return f"boxes cannot run here: {report['refusal']}"
    (used,) = (backend for backend in report["backends"] if backend["name"] == report["uses"])  # type: ignore[attr-defined]
    if not used["cannot_enforce"]:
        return f"boxes use {used['name']}: the strongest that works here"
    given_up = ", ".join(gap["aspect"] for gap in used["cannot_enforce"])
    return f"boxes use {used['name']}, and only with what it cannot enforce in allow_degraded: {given_up}"
