"""Entry scripts: parse, build, run."""
