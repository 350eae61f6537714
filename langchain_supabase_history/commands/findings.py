"""How the findings of the doctor are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from ..doctor.environment import Finding
from .output import in_terminal, print_json

_SIGNS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "fault": ("✗", "red")}


def show(findings: Sequence[Finding], *, as_json: bool = False) -> None:
    """Print findings: a table on a terminal, plain lines where they are piped, or JSON."""
    faults = sum(finding.status == "fault" for finding in findings)
    if as_json:
        print_json({"ok": not faults, "findings": [asdict(finding) for finding in findings]})
        return
    verdict = f"{faults} fault{'s' if faults > 1 else ''}." if faults else "All is well."
    if not in_terminal():
        for finding in findings:
            print(f"{finding.status:<8}{finding.name}: {finding.says}")
            if finding.fix:
                print(f"        -> {finding.fix}")
        print(verdict)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1))
    for finding in findings:
        sign, colour = _SIGNS[finding.status]
        fix = f"\n[bold]{escape(finding.fix)}[/bold]" if finding.fix else ""
        table.add_row(f"[{colour}]{sign}[/{colour}]", escape(finding.name), escape(finding.says) + fix)
    console = Console(highlight=False)
    console.print(table)
    console.print(verdict)
