"""Subcommands that are not anomalib's, one module each; see `panda_anomalib.commands.TOOLS`.

Each module has ``make_parser() -> ToolParser`` and ``run(arguments) -> int``, the exit code. Its top imports nothing
heavy, so that ``--help`` answers at once; ``run`` imports what it needs. A module may have ``check(arguments)``, which
refuses what cannot work before anything heavy is imported.
"""
