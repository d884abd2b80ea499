from typing import Any


def check(env: Any, fixed_start: bool = False) -> None:
    pass
