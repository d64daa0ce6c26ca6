"""The project's own evidence, one room a study; not part of the wheel."""
