"""The command line: parse, call the library, show. No logic lives here.

stdout is data, stderr is progress and notices. Exit codes: 0 done, 1 failed or done in part, 2 wrong usage.
"""
