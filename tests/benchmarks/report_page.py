"""How fast the report of 10,000 utterances loads and filters, in Chromium.

    .venv/bin/python -m tests.benchmarks.report_page [--utterances 10000]

Each filter is timed from the key or choice to the frame in which its rows are shown: script, layout and painting.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from caspi.evaluation.report import write_report
from caspi.evaluation.results import Results
from caspi.synthesis.vocabulary import WORDS
from tests.browser import browser
from tests.evaluation.hearing import hear

_WORDS = [word.plain for word in WORDS]

_MEASURE = """
(async () => {
  const shown = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const times = [];
  const time = async act => {
    const began = performance.now();
    act();
    await shown();
    times.push(performance.now() - began);
  };
  const type = words => time(() => { search.value = words; search.dispatchEvent(new Event('input')); });
  const choose = (menu, place) => time(() => {
    menu.selectedIndex = place;
    menu.dispatchEvent(new Event('change', { bubbles: true }));
  });
  document.getElementById('utterances').scrollIntoView({ behavior: 'instant' });
  await shown();
  for (let round = 0; round < 5; round += 1) {
    for (const words of SEARCHED) await type(words);
    for (const place of [1, 2, 3, 4, 0]) await choose(document.getElementById('kind'), place);
    for (const menu of document.querySelectorAll('select[data-group]')) {
      await choose(menu, 1);
      await choose(menu, 0);
    }
    for (const header of document.querySelectorAll('[data-sort]')) await time(() => header.click());
  }
  return [performance.getEntriesByType('navigation')[0].loadEventEnd, times];
})()
"""


def synthesize(num_utterances: int) -> Results:
    """Sentences of 1 to 22 words, of which 15% are heard wrong."""
    random = np.random.default_rng(0)
    texts = []
    for _ in range(num_utterances):
        said = random.choice(_WORDS, random.integers(1, 23))
        heard = np.where(random.random(len(said)) < 0.15, random.choice(_WORDS, len(said)), said)
        texts.append((" ".join(said), " ".join(heard)))
    names = [f"source {place}" for place in range(8)]
    return hear(texts, source=[names[place % 8] for place in range(num_utterances)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=10_000)
    args = parser.parse_args()
    results = synthesize(args.utterances)
    words = str([*(_WORDS[0][:end] for end in range(1, len(_WORDS[0]) + 1)), "u99", ""])
    with tempfile.TemporaryDirectory() as temporary, browser(Path(temporary) / "profile") as tab:
        began = time.perf_counter()
        page = write_report(temporary, results)
        print(f"page: {page.stat().st_size / 1e6:.1f} MB, written in {time.perf_counter() - began:.1f} s")
        for width in (1280, 360):
            tab.open(page, width=width)
            loaded_ms, times_ms = tab.run(_MEASURE.replace("SEARCHED", words))
            print(
                f"{width} px wide: loaded in {loaded_ms:.0f} ms; {len(times_ms)} filters and sorts, "
                f"median {statistics.median(times_ms):.0f} ms, slowest {max(times_ms):.0f} ms"
            )


if __name__ == "__main__":
    main()
