"""What makes a claim hold, and what makes it specific to the task.

A claim is a statement about the evidence that is decided by rule. One about a mean holds where its interval lies on the
stated side of chance, one about a contrast where the interval of the difference lies on the stated side of zero, and
either needs a corrected p-value below 0.05.

The same rule is then put to the controls, and has three answers there: where they are so few that no p-value could have
been below 0.05, or have no interval, nobody knows. An effect that holds in the controls as well is not specific to the
task. One that does not hold there need not be either, since an effect that is shown here and not there may be the same
in both. So it is called specific where, besides, it is larger than that of the controls: the interval of the difference
of the two lies on the stated side of zero (from both intervals: Newcombe 1998, method 10; Zou and Donner 2008; no query
is in both), and where the evidence has the contrast of the kind with its controls, and it could have been below 0.05,
that has a corrected p-value below 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

LEVEL = 0.05
Rows = Mapping[tuple[str, str, str, str, str | None], dict]
"""Of the evidence, by analysis, method, statistic, group and contrast."""
NOT_FOUND, FEW_QUERIES = "not found", "too few queries"
NO_CONTROLS, FEW_CONTROLS = "holds, no controls", "holds, too few controls"
IN_CONTROLS, CONTROLS_MAY = "holds, in controls too", "holds, controls may too"
SPECIFIC = "holds, not in controls"
"""What may be said of a claim. CONTROLS_MAY: it is not shown for the controls, nor that they differ."""


@dataclass(frozen=True)
class Claim:
    """One statement: `statistic` of `group` is above (`sign` 1) or below (−1) chance, or what `contrast` has."""

    name: str
    analysis: str
    sentence: str
    statistic: str
    group: str
    contrast: str | None = None
    sign: int = 1

    def of_controls(self) -> Claim:
        """The same of the controls."""
        return replace(self, group=_control(self.group), contrast=self.contrast and _control(self.contrast))

    def evidence(self, rows: Rows, method: str) -> dict | None:
        """The row of the evidence that decides it; None where the study has none."""
        return rows.get((self.analysis, method, self.statistic, self.group, self.contrast))

    def against_controls(self, rows: Rows, method: str) -> dict | None:
        """The row of the kind less its controls; None where there is none, as for all claims about contrasts."""
        contrast = _control(self.group)
        return rows.get((self.analysis, method, self.statistic, self.group, contrast)) if not self.contrast else None

    def holds(self, row: dict) -> bool | None:
        """Whether it does; None where this evidence could not have shown it."""
        low, high = self._beyond_chance(row)[1:]
        if math.isnan(low) or math.isnan(high) or math.isnan(row["p_adjusted"]) or row["smallest_p"] >= LEVEL:
            return None
        return self._on_its_side(low, high) and row["p_adjusted"] < LEVEL

    def is_larger(self, row: dict, control: dict, contrast: dict | None) -> bool | None:
        """Whether the effect is larger than that of the controls; None where nothing could have shown it. `contrast` is
        the row of the one less the other, where the evidence has it."""
        one, low, high = self._beyond_chance(row)
        other, other_low, other_high = self._beyond_chance(control)
        ends = (
            one - other - math.hypot(one - low, other_high - other),
            one - other + math.hypot(high - one, other - other_low),
        )
        if any(map(math.isnan, ends)):
            return None
        # Among the contrasts of a hundred sources even the smallest p-value of all resamples is corrected beyond 0.05.
        is_tested = contrast is not None and contrast["smallest_p"] < LEVEL
        return self._on_its_side(*ends) and not (is_tested and contrast["p_adjusted"] >= LEVEL)

    def _beyond_chance(self, row: dict) -> tuple[float, float, float]:
        """Estimate and ends of the interval, less what chance gives."""
        chance = row["chance"] if self.contrast is None else 0.0
        return row["estimate"] - chance, row["low"] - chance, row["high"] - chance

    def _on_its_side(self, low: float, high: float) -> bool:
        return low > 0 if self.sign > 0 else high < 0


def verdict_of(holds: bool | None, has_controls: bool, in_controls: bool | None, more: bool | None) -> str:
    """What is said of a claim: whether it holds, has controls, holds in them, and is larger than there; None: open."""
    if not holds:
        return FEW_QUERIES if holds is None else NOT_FOUND
    if not has_controls:
        return NO_CONTROLS
    if in_controls or in_controls is None:
        return IN_CONTROLS if in_controls else FEW_CONTROLS
    return SPECIFIC if more else CONTROLS_MAY


def is_specific(verdict: str) -> bool | None:
    """Whether the effect is the task's own; None: open."""
    return {NOT_FOUND: False, IN_CONTROLS: False, SPECIFIC: True}.get(verdict)


def _control(group: str) -> str:
    """`reasoning, same task` → `reasoning control, same task`."""
    kind, comma, rest = group.partition(",")
    return f"{kind} control{comma}{rest}"
