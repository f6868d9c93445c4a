"""``vsbox check DIR``."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import click

from vsbox.cli.output import print_json, print_table
from vsbox.errors import UsageError

if TYPE_CHECKING:
    from vsbox.check.battery import Finding
    from vsbox.check.contract import Kept

SHOWN = ("pass", "FAILED", "open by policy", "degraded", "not possible here")
WORDS = {"pass": "passed", "FAILED": "failed"}


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--extended", is_flag=True, help="Make many more attempts.")
@click.option("--contract", is_flag=True, help="Also try what Python programs count on, under the box's own policy.")
@click.option("-v", "--verbose", is_flag=True, help="Say how each attempt was made, and what was answered.")
@click.option("-i", "--interactive", is_flag=True, help="Then start Python inside.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    directory: str, *, extended: bool, contract: bool, verbose: bool, interactive: bool, as_json: bool
) -> None:
    """Prove that the box DIR confines: attempts that must fail, made inside and outside.

    \b
      vsbox check myenv
      vsbox check --extended --contract myenv
      vsbox check --interactive myenv

    The same attempt outside is the control: it shows that it would work without the box. Exit
    status 1 when something was reached that the policy does not open, or when something of the
    contract does not work that the policy does not close.
    """
    from vsbox.box.layout import open_box
    from vsbox.box.store import load_policy, plan_and_facts
    from vsbox.check.battery import run_battery
    from vsbox.check.contract import run_contract
    from vsbox.launch import replace_self

    if interactive and as_json:
        raise UsageError("JSON and a prompt do not go together", hint="leave out --json or --interactive")
    layout = open_box(directory)
    policy = load_policy(layout)
    receipt = plan_and_facts(layout, policy).plan.receipt
    findings = run_battery(layout, policy, receipt, extended=extended)
    kept = run_contract(layout, policy, receipt) if contract else ()
    failed = sum(finding.verdict == "FAILED" for finding in findings)
    broken = sum(promise.state == "does not work" for promise in kept)
    if as_json:
        document = {"box": str(layout.root), "tier": receipt.tier, "failed": failed, "findings": findings}
        print_json({**document, "broken": broken, "contract": kept})
    else:
        _print_findings(f"{layout.root}: {receipt.tier}", findings, verbose=verbose)
        _print_contract(kept, verbose=verbose)
    if interactive:
        sys.stdout.flush()
        replace_self(layout.root, ("python",))
    sys.exit(1 if failed or broken else 0)


def _print_findings(title: str, findings: tuple[Finding, ...], *, verbose: bool) -> None:
    if verbose:
        click.echo(title)
        for finding in findings:
            click.echo(f"\n{finding.probe}: {finding.verdict}")
            click.echo(f"  aspect   {finding.aspect.value}")
            click.echo(f"  tries    {finding.tries}")
            click.echo(f"  inside   {_answer(finding.inside, finding.inside_detail)}")
            click.echo(f"  outside  {_answer(finding.outside, finding.outside_detail)}")
            click.echo(f"  control  {finding.control}")
    else:
        print_table(title, ("attempt", "inside", "outside", "verdict"), map(_row, findings))
    counts = Counter(str(finding.verdict) for finding in findings)
    always = {"pass", "FAILED"}
    words = [f"{counts[name]} {WORDS.get(name, name)}" for name in SHOWN if counts[name] or name in always]
    click.echo(f"\n{', '.join(words)}")


def _answer(result: str, detail: str) -> str:
    return f"{'reached' if result == 'ok' else result}{f': {detail}' if detail else ''}"


def _row(finding: Finding) -> tuple[str, str, str, str]:
    inside = "REACHED" if finding.inside == "ok" else f"denied ({finding.inside})"
    if finding.inside in {"crashed", "timed out"}:
        inside = f"FAILED ({finding.inside})"
    outside = "reached" if finding.is_control else f"not possible here ({finding.outside})"
    return (finding.probe, inside, outside, finding.verdict)


def _print_contract(kept: tuple[Kept, ...], *, verbose: bool) -> None:
    if not kept:
        return
    click.echo()
    columns = ("Python programs", "inside", "how", "") if verbose else ("Python programs", "inside", "")
    rows = [
        (k.name, k.state, k.how, k.detail) if verbose else (k.name, k.state, "" if k.state == "works" else k.detail)
        for k in kept
    ]
    print_table("Contract", columns, rows)
    counts = Counter(promise.state for promise in kept)
    click.echo("\n" + ", ".join(f"{number} {state}" for state, number in counts.items()))
