"""Policy: which task executes which block of the trunk, and what tasks can compute together because of it.

AdaShare (Sun et al., NeurIPS 2020, section 3): the tasks share one trunk; each executes or skips each residual block.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from slimtask.errors import InputError, first_problem, nearest
from slimtask.files import read_json, write_json
from slimtask.tasks import Frozen

Name = Annotated[str, Field(min_length=1, max_length=256)]


class Policy(Frozen):
    """Per task one boolean for each of the trunk's ``blocks`` (names in order of execution): True executes it.

    Examples:
        >>> from slimtask.compress import Policy
        >>> policy = Policy(blocks=("x", "y"), selects={"depth": (True, True), "edges": (True, False)})
        >>> print(policy)
        depth  ##  2 of 2 blocks
        edges  #.  1 of 2 blocks
        >>> policy.shared_prefix(), policy.skipped(["edges"])
        (('x',), ('y',))
    """

    kind: Literal["policy"] = "policy"
    blocks: tuple[Name, ...] = Field(min_length=1)
    selects: dict[Name, tuple[bool, ...]] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Policy:
        twice = [block for block in self.blocks if self.blocks.count(block) > 1]
        if twice:
            raise ValueError(f"the policy names block '{twice[0]}' twice")
        for task, selects in self.selects.items():
            if len(selects) != len(self.blocks):
                raise ValueError(f"task '{task}' decides on {len(selects)} blocks, the trunk has {len(self.blocks)}")
        return self

    @classmethod
    def from_json(cls, value: Any, where: str = "the policy") -> Policy:
        """Return the policy that ``value`` (parsed JSON) describes; InputError says what in ``where`` is wrong."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise InputError(f"{where} is not valid ({first_problem(error)}); write it again.") from None

    @classmethod
    def load(cls, path: Path | str) -> Policy:
        """Return the policy in the JSON file ``path``; InputError names a missing or damaged file."""
        return cls.from_json(read_json(path, "policy"), f"policy '{path}'")

    def save(self, path: Path | str) -> None:
        """Write the policy to ``path`` as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of the tasks."""
        return tuple(self.selects)

    def union(self, tasks: Sequence[str] | None = None) -> tuple[bool, ...]:
        """Return for each block whether at least one of ``tasks`` (all for None) executes it."""
        return tuple(any(column) for column in zip(*self._rows(tasks), strict=True))

    def skipped(self, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return the blocks that none of ``tasks`` executes."""
        return tuple(block for block, used in zip(self.blocks, self.union(tasks), strict=True) if not used)

    def shared_prefix(self, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return the blocks, from the first on, that ``tasks`` decide alike: their features up to there are equal."""
        rows = self._rows(tasks)
        equal = [len(set(column)) == 1 for column in zip(*rows, strict=True)]
        return self.blocks[: equal.index(False)] if False in equal else self.blocks

    def merge_points(self, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return the blocks after which paths differ that were one path before them (where computation branches)."""
        counts = [1, *(len(self.sharing(block, tasks)) for block in self.blocks)]
        return tuple(
            block for block, before, after in zip(self.blocks, counts, counts[1:], strict=False) if after > before
        )

    def sharing(self, block: str, tasks: Sequence[str] | None = None) -> tuple[tuple[str, ...], ...]:
        """Return ``tasks`` (all for None) in sets that decide alike up to and including ``block``.

        One set needs the block's output once: its tasks share the batch. What paths did before stays in the features,
        so two sets never become one again.
        """
        if block not in self.blocks:
            raise InputError(f"the policy has no block '{block}'{nearest(block, self.blocks)}")
        end = self.blocks.index(block) + 1
        sets: dict[tuple[bool, ...], list[str]] = {}
        for task in self._select(tasks):
            sets.setdefault(self.selects[task][:end], []).append(task)
        return tuple(tuple(members) for members in sets.values())

    def restricted(self, tasks: Sequence[str]) -> Policy:
        """Return the policy of ``tasks`` alone."""
        return Policy(blocks=self.blocks, selects={task: self.selects[task] for task in self._select(tasks)})

    def __str__(self) -> str:
        """Return one line per task, ``#`` for an executed block and ``.`` for a skipped one."""
        width = max(len(task) for task in self.tasks)
        return "\n".join(
            f"{task:{width}}  {''.join('#' if used else '.' for used in row)}  {sum(row)} of {len(row)} blocks"
            for task, row in self.selects.items()
        )

    def _select(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        if tasks is None:
            return self.tasks
        for task in tasks:
            if task not in self.selects:
                raise InputError(f"the policy has no task '{task}'{nearest(task, self.tasks)}")
        if not tasks:
            raise InputError("a policy of no tasks is empty; name at least one task.")
        return tuple(dict.fromkeys(tasks))

    def _rows(self, tasks: Sequence[str] | None) -> list[tuple[bool, ...]]:
        return [self.selects[task] for task in self._select(tasks)]
