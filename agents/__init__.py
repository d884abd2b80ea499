"""Algorithms, one file each: `Config`, `State`, `check`, `init`, `act`, `mode`, `update`, `make`."""

if __name__ == "agents":  # python runs in the checkout's root
    from rljax.alias import alias

    alias(__name__)
