"""The command line's commands: typed functions of plain values, one folder in, one folder out.

Nothing heavy is imported at module level, so that ``--help`` answers at once.
"""
