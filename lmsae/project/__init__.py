"""The files of a project: what `lmsae new` copies, and the workflow that a project's Snakefile uses."""

from pathlib import Path

FILES = Path(__file__).parent
SNAKEFILE = str(FILES.with_name("workflow") / "Snakefile")
"""The rules of all stages, as a module of Snakemake."""
