"""Checks before a run starts: of recipe, cohort, workspace and machine; each returns its findings, all at once."""
