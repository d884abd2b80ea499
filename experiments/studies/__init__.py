"""Studies: comparisons behind the figures in benchmarks/, each a module that is run with ``python -m``."""
