import json

import pytest

from caspi.corpus import commit
from caspi.corpus.commit import Work
from caspi.errors import CorpusError


@pytest.fixture
def work(tmp_path):
    return Work(tmp_path / "corpus")


def finish(work):
    """As if a preparation had come to its end."""
    (work.corpus / "manifest.json").write_text("{}")


def test_a_corpus_appears_at_once_and_leaves_nothing_beside_it(work, tmp_path):
    commit.begin(work, "plan")
    assert not commit.is_complete(work)
    finish(work)
    assert commit.is_complete(work)
    assert not work.output.exists()
    commit.commit(work)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_what_belongs_to_another_plan_is_not_gone_on_with(work):
    commit.begin(work, "plan")
    finish(work)
    (work.parts / "kept").touch()
    commit.begin(work, "another")
    assert not commit.is_complete(work)
    assert (work.parts / "kept").exists()  # parts say themselves what they are


def test_the_same_plan_goes_on(work):
    commit.begin(work, "plan")
    (work.corpus / "train").mkdir()
    commit.begin(work, "plan")
    assert (work.corpus / "train").exists()


def test_a_run_that_ended_between_moving_and_tidying_is_recognised(work):
    commit.begin(work, "plan")
    finish(work)
    work.corpus.rename(work.output)
    assert commit.is_committed(work, "plan")
    assert not commit.is_committed(work, "another")


def test_an_old_corpus_is_not_taken_for_the_new_one_while_that_begins(work, monkeypatch):
    work.output.mkdir()
    (work.output / "manifest.json").write_text("{}")

    def killed(path, text):
        path.write_text(text)
        raise KeyboardInterrupt

    monkeypatch.setattr(commit, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        commit.begin(work, "plan")
    assert json.loads(work.plan.read_text()) == {"plan": "plan"}
    assert not commit.is_committed(work, "plan")


def test_a_corpus_that_is_replaced_stays_until_the_new_one_is_there(work, tmp_path):
    work.output.mkdir()
    (work.output / "manifest.json").write_text('{"old": 1}')
    commit.begin(work, "plan")
    finish(work)
    commit.commit(work)
    assert (work.output / "manifest.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_two_do_not_work_on_one_corpus(work):
    with commit.locked(work), pytest.raises(CorpusError, match="another preparation is at work"), commit.locked(work):
        pass
    with commit.locked(work):
        pass
