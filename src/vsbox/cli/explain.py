"""``vsbox explain DIR [PATH]...``."""

from __future__ import annotations

import os

import click

from vsbox.box.layout import open_box
from vsbox.box.store import load_policy, map_words, plan_and_facts
from vsbox.cli.output import print_json, print_table
from vsbox.plan.explain import Decision, Verdict, decide, judge_syscalls
from vsbox.plan.model import Plan
from vsbox.policy.grants import Access, grants_of, is_below

MEANINGS = {Access.HIDDEN: "no access", Access.READ: "read", Access.WRITE: "read and write"}


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--plan", "show_plan", is_flag=True, help="Print the steps the launcher carries out.")
@click.option("--syscalls", "show_syscalls", is_flag=True, help="Print what is answered to each system call.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(
    directory: str, paths: tuple[str, ...], *, show_plan: bool, show_syscalls: bool, as_json: bool
) -> None:
    """Say what code in the box DIR may touch, by which rule, and what enforces it.

    \b
      vsbox explain myenv
      vsbox explain myenv ~/.ssh/id_ed25519 ~/data
      vsbox explain myenv --syscalls

    The directory that a command is started in is readable as well, unless it is a home directory, a
    hidden directory of one, or the system's (see working_directory in sandbox.json).
    """
    layout = open_box(directory)
    policy = load_policy(layout)
    compiled = plan_and_facts(layout, policy)
    plan, facts, box = compiled.plan, compiled.facts, compiled.box
    if show_syscalls:
        _print_syscalls(judge_syscalls(plan, policy, facts.machine), as_json=as_json)
        return
    policy = map_words(policy).policy
    named = paths or tuple(grant.path for grant in grants_of(policy))
    decisions = [decide(_resolve(path, box.root), plan, policy, box, facts) for path in named]
    if as_json:
        print_json(_as_json(plan, decisions, show_plan=show_plan))
        return
    if show_plan:
        for step in plan.steps:
            click.echo(step.describe())
        return
    if decisions:
        print_table("Paths", ("path", "may", "because"), [_row(decision) for decision in decisions])
    if not paths:
        click.echo()
        print_table(
            f"Receipt: {layout.root}, {plan.receipt.tier}",
            ("aspect", "asked", "state", "by"),
            [
                (row.aspect.value, row.asked, row.state, ", ".join(row.layers) + (f" ({row.note})" if row.note else ""))
                for row in plan.receipt.rows
            ],
        )


def _print_syscalls(verdicts: tuple[Verdict, ...] | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"syscalls": verdicts})
    elif verdicts is None:
        click.echo("no filter: sandbox.json asks for an empty list of system calls")
    else:
        rows = [(verdict.name, verdict.answer, verdict.reason) for verdict in verdicts]
        print_table("System calls", ("call", "answer", "because"), rows)


def _resolve(path: str, root: str) -> str:
    """Follow links as the kernel would, except in the box, which looks different from inside."""
    literal = os.path.abspath(os.path.expanduser(path))
    return literal if is_below(literal, root) else os.path.realpath(literal)


def _row(decision: Decision) -> tuple[str, str, str]:
    where = f" ({decision.shown})" if decision.shown not in {"", decision.path} else ""
    return (decision.path, MEANINGS[decision.access], decision.rule + where)


def _as_json(plan: Plan, decisions: list[Decision], *, show_plan: bool) -> dict[str, object]:
    document: dict[str, object] = {
        "receipt": plan.receipt,
        "paths": [
            {"path": d.path, "may": MEANINGS[d.access], "rule": d.rule, "place": d.shown} for d in decisions
        ],
    }
    if show_plan:
        document["plan"] = [step.describe() for step in plan.steps]
    return document
