import gc
from collections.abc import Iterator

import pytest

from caspi import garbage


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_imported_is_not_walked_through_and_what_comes_later_is():
    class Node:
        pass

    with garbage.importing():
        assert not gc.isenabled()
        kept = Node()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    later = Node()
    seen = {id(each) for each in gc.get_objects()}
    assert id(later) in seen
    assert id(kept) not in seen


def test_a_failed_import_leaves_the_search_on():
    with pytest.raises(ImportError), garbage.importing():
        import caspi.nothing_of_the_kind  # noqa: F401
    assert gc.isenabled()
