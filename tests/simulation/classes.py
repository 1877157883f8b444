"""
The bug classes that other control planes had, G1 to G30, and where each is shown to be caught.

A class is planted into the simulator (`mutants`), held by a test that was seen to fail with the bug planted by hand, or comes
with a feature that is not built yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from simulation.mutants import MUTANTS, Caught

NAMES: Final = {
    "G1": "a watch gives up for ever",
    "G2": "missed events are never made good",
    "G3": "not seen is taken for gone",
    "G4": "an effect that failed counts as done",
    "G5": "a restart forgets what was begun",
    "G6": "stuck, and not to be stopped",
    "G7": "one hung call blocks everything",
    "G8": "two at work on the same stack",
    "G9": "the record says started, the runtime is gone",
    "G10": "what can never work is tried for ever",
    "G11": "an action is done again and again",
    "G12": "a sweeper acts on an old decision",
    "G13": "a caller that goes away cancels the work",
    "G14": "requests pile up behind one another",
    "G15": "placement by stale numbers",
    "G16": "a stale write into memory",
    "G17": "a quota that is counted, not derived",
    "G18": "what was seen before our own write decides",
    "G19": "names that prefix one another",
    "G20": "a start beside what still runs",
    "G21": "what an allocation still uses is taken away",
    "G22": "a zombie in the catalogue",
    "G23": "trouble with Vault has no end",
    "G24": "a rollout that is stuck",
    "G25": "alive and answering nothing",
    "G26": "the dead still hold what they held",
    "G27": "secrets where none may be",
    "G28": "a read that becomes a write fails at once",
    "G29": "a start that costs more with every user",
    "G30": "no limit to our own calls, no end to what is kept",
}

HELD: Final = {
    "G13": "tests/api/test_access.py::test_a_change_goes_on_when_its_client_is_gone",
    "G14": "tests/lifecycle/test_races.py::test_requests_that_find_a_stack_unseen_share_one_look",
    "G16": "tests/lifecycle/test_fleet.py::test_an_older_row_does_not_replace_a_newer_one",
    "G21": "tests/nomad_jobs/test_real_task.py::test_the_server_has_its_secrets_and_follows_its_live_files",
    "G28": "tests/contracts/stores/test_deciding.py::test_two_replicas_that_decide_about_one_absent_user_make_one_row",
    "G29": "tests/contracts/stores/test_faults.py::test_reading_needs_one_statement_and_an_idle_database_none",
    "G30": "tests/lifecycle/test_workers.py::test_no_more_stacks_are_worked_on_at_once_than_there_are_workers",
}
"""By the path and the name of a test that fails when the bug is planted."""

LATER: Final = {
    "G17": "quotas of stacks, which are not built",
}
"""What the class comes with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. `after` is None where nothing was planted, or what was planted was not caught."""

    of: str
    name: str
    planted: str = ""
    replicas: int | None = None
    after: int | None = None
    shown: str
    by: str = ""

    def cells(self) -> tuple[str, ...]:
        return (self.of, self.name, self.planted, str(self.replicas or ""), self.shown, self.by)


def rows(found: Mapping[int, Caught | None]) -> list[Row]:
    """Return the table: every class in order, with how it is shown; of the planted ones, how it was found just now."""
    table = []
    for of, name in {**NAMES, "own": "found in this product"}.items():
        planted = [(number, mutant) for number, mutant in enumerate(MUTANTS) if mutant.of == of]
        for number, mutant in planted:
            caught = found.get(number)
            without = f" (and without: {mutant.also_without})" if mutant.also_without else ""
            table.append(
                Row(
                    of=of,
                    name=name,
                    planted=mutant.what + without,
                    replicas=mutant.replicas,
                    after=caught.after if caught else None,
                    shown=f"caught after {caught.after}" if caught else "NOT CAUGHT",
                    by=caught.by if caught else "",
                )
            )
        if of in HELD:
            table.append(Row(of=of, name=name, shown="held by test", by=HELD[of]))
        if of in LATER:
            table.append(Row(of=of, name=name, shown="comes with", by=LATER[of]))
    return table
