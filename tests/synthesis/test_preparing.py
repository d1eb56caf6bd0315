from collections import Counter

import pyarrow.compute as pc

from caspi.corpus import prepare
from caspi.recipe.sections import Recipe


def test_preparing_keeps_every_good_utterance_and_refuses_every_bad_one_as_declared(
    ray_2_cpus, small_corpus, truth, tmp_path
):
    names = ("crowd-transcribe-v5", "crowd-recital-whisper-training")
    sources = [{"kind": "hub_parquet", "path": str(small_corpus / name)} for name in names]
    recipe = Recipe.model_validate({"name": "synthetic", "data": {"language": "he", "sources": sources}})
    corpus = prepare(recipe, tmp_path / "corpus")

    assert corpus.manifest["rejected_by_reason"] == Counter(
        row["bad"] for row in truth if row["bad"] not in (None, "untranscribed")
    )
    good = [row for row in truth if row["bad"] is None]
    assert len(corpus.utterances) == len(good)
    assert sum(pc.equal(corpus.utterances["split"], "test").to_pylist()) == sum(row["split"] == "test" for row in good)
