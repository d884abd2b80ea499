"""What MuJoCo says, said as Python says such things."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def warned() -> Iterator[None]:
    """While it lasts MuJoCo's warnings become Python's, without the one that no user can act on: ``settotalmass`` deprecated.

    By itself MuJoCo would print them, and write them to MUJOCO_LOG.TXT.
    """
    import mujoco

    before = mujoco.get_mju_user_warning()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compiler attribute 'settotalmass' is deprecated", UserWarning)
        mujoco.set_mju_user_warning(lambda text: warnings.warn(text, UserWarning, stacklevel=2))
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(before)
