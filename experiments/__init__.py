"""Command line, training, sweeps, reports: all that prints, and all that touches the disk."""

if __name__ == "experiments":  # python runs in the checkout's root
    from rljax.alias import alias

    alias(__name__)
