"""The command line of ``python -m benchmarks.instructions``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.instructions.base import STORED, build, commit, store, stored
from benchmarks.instructions.cases import CASES
from benchmarks.instructions.counting import ROOT, CannotCount, Counts, count
from benchmarks.instructions.judge import judge, passes, table

FAILED = 1


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Compare; exit code 1 if a case got slower by over 10 %.")
    ] = False,
    save: Annotated[bool, typer.Option("--save", help="Keep the counts for later comparisons.")] = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="With --check: build and count the base, whatever the toolchain is."),
    ] = False,
) -> None:
    """Count the instructions of the hot parts of the installed slotwise.

    Needs valgrind. --check fails as well when there is nothing to compare with.
    """
    try:
        now = count(CASES)
        if now.errors:
            raise CannotCount(_told(now.errors))
        before = _base(now, rebuild) if check else {}
    except CannotCount as error:
        print(f"Not counted: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    lines = judge(before, now.cases)
    if not check:
        for case, found in now.cases.items():
            print(f"{case:52} {found:10,.1f}")
    else:
        print(table(lines))
    if save:
        store(now)
        print(f"Saved {STORED.relative_to(ROOT)}")
    if not check:
        return
    for line in lines:
        if line.verdict == "faster":
            print(
                f"{line.case}: faster by over 10 %. Save the counts, or a later regression will hide in that."
            )
        elif line.verdict == "not compared":
            print(
                f"{line.case}: not counted on both sides. Save the counts in the commit that changes the cases."
            )
        elif line.verdict:
            print(f"{line.case}: slower by over 10 %. If it must be, save the counts in the same commit.")
    if not passes(lines):
        raise typer.Exit(FAILED)


def _base(now: Counts, rebuild: bool) -> dict[str, float]:
    """The counts to compare with."""
    kept = stored()
    differences = [key for key in now.toolchain if kept.toolchain.get(key) != now.toolchain[key]]
    if not differences and not rebuild:
        print(f"Compared with the stored counts of the same toolchain, {STORED.relative_to(ROOT)}.")
        return kept.cases
    base = commit()
    why = f"the stored counts were made with another {', '.join(differences)}" if differences else "as asked"
    print(f"Compared with commit {base[:12]}, built and counted here: {why}.")
    with tempfile.TemporaryDirectory() as folder:
        # What was never saved has no base, even where the old package could run it.
        found = count(
            [case for case in CASES if case in kept.cases], build(base, now.toolchain["cython"], Path(folder))
        )
    if found.errors:
        raise CannotCount(
            f"commit {base[:12]} cannot run today's cases, save the counts anew. {_told(found.errors)}"
        )
    if found.toolchain != now.toolchain:
        raise CannotCount(
            f"what is installed was built by {now.toolchain}, the base here by {found.toolchain}"
        )
    return {case: found.cases[case] for case in kept.cases if case in found.cases}


def _told(errors: dict[str, str]) -> str:
    return "; ".join(f"{case}: {error}" for case, error in errors.items())


if __name__ == "__main__":
    typer.run(main)
