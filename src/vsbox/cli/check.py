"""``vsbox check DIR``."""

from __future__ import annotations

import sys

import click

from vsbox.box.layout import open_box
from vsbox.box.store import load_policy, plan_and_facts
from vsbox.check.battery import Finding, run_battery
from vsbox.cli.output import print_json, print_table


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(directory: str, *, as_json: bool) -> None:
    """Prove that the box DIR confines: attempts that must fail, made inside and outside.

    The same attempt outside is the control: it shows that it would work without the box. Exit
    status 1 when something was reached that the policy does not open.
    """
    layout = open_box(directory)
    plan = plan_and_facts(layout, load_policy(layout)).plan
    findings = run_battery(layout, plan.receipt)
    failed = [finding for finding in findings if finding.verdict == "FAILED"]
    if as_json:
        print_json({"box": str(layout.root), "tier": plan.receipt.tier, "failed": len(failed), "findings": findings})
    else:
        title = f"{layout.root}: {plan.receipt.tier}"
        print_table(title, ("attempt", "inside", "outside", "verdict"), map(_row, findings))
        click.echo(f"\n{len(findings) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


def _row(finding: Finding) -> tuple[str, str, str, str]:
    inside = "REACHED" if finding.inside == "ok" else f"denied ({finding.inside})"
    outside = "reached" if finding.control else f"not possible here ({finding.outside})"
    return (finding.probe, inside, outside, finding.verdict)
