"""A process for one call tells what kills it from what it cannot even load."""

from __future__ import annotations

import pytest

from wsiseg.engine.disposable import alone


class Unloadable:
    """As a slide that has gone, or a model of a script: it travels, and cannot be made there."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("gone",)

    def __call__(self, item: int) -> int:
        return item


@pytest.mark.timeout(60)
def test_what_cannot_be_loaded_there_is_no_fault_of_the_item() -> None:
    with pytest.raises(ValueError, match="gone"):
        alone(Unloadable(), 3, 60)
