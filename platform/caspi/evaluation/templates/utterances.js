"use strict";
// The table of utterances: search, filter, sort, word-by-word differences, sound. Columns are explained in browsing.py.
// Texts reach the page as text nodes only. Rows are made when they are shown: of 10,000, a screenful at a time.
(() => {
  const ROWS_AT_ONCE = 15;
  const byId = id => document.getElementById(id);
  const { names, languages, groups, sound_folder: soundFolder, rows, systems } = JSON.parse(byId("table").textContent);
  const numRows = rows.id.length;
  const single = systems.length === 1;
  const isAudible = rows.sound.some(each => each !== null);
  const letters = names.map((_, system) => (single ? "" : String.fromCharCode(65 + system)));
  const places = Array.from({ length: numRows }, (_, row) => row);
  const sliceNames = groups.flatMap(([group, each]) => each.map(name => `${group}=${name}`));
  const all = value => places.map(value);
  const most = values => values.reduce((one, other) => Math.max(one, other), 0);

  // --- numbers of each row ---------------------------------------------------------------------------------------

  const usable = all(row => systems.every(system => !system.error[row]));
  const numWords = all(row => (rows.said[row] ? rows.said[row].split(" ").length : 0));
  const errors = systems.map(system => system.operations.map(each => each.replaceAll("=", "").length));
  const change = all(row => most(errors.map(each => each[row])) - Math.min(...errors.map(each => each[row])));
  // As texts are scored, whatever the language: without marks and quotes, case folded, punctuation as space. So a
  // pointed word is found too, and one that is copied from the page.
  const plain = text => text.normalize("NFKC").toUpperCase().toLowerCase()
    .replace(/[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"'׳״’”“‘`]/g, "").replace(/[\p{P}\p{S}\s]+/gu, " ").trim();
  const texts = all(row => [rows.said[row], ...systems.map(system => system.heard[row])].map(plain).join("\n"));
  const ids = all(row => `${rows.id[row]} ${rows.speaker[row] ?? ""}`.toLowerCase());

  const alone = system => row => errors.every((each, other) => other === system || errors[system][row] < each[row]);
  const some = test => row => usable[row] && systems.some((system, place) => test(system, row, place));
  const has = operation => some((system, row) => system.operations[row].includes(operation));
  const kinds = [
    ["All utterances", () => true],
    ...(single ? [] : [["Where they differ", row => new Set(systems.map(system => system.heard[row])).size > 1]]),
    ...(single ? [] : names.map((name, system) => [`${letters[system]} has the fewest errors`, alone(system)])),
    ["With errors", some((_, row, place) => errors[place][row])],
    ["Without errors", row => usable[row] && errors.every(each => !each[row])],
    ["A word was replaced", has("S")],
    ["A word was left out", has("D")],
    ["A word was added", has("I")],
    ["Nothing was heard", some((system, row) => rows.said[row] && !system.heard[row])],
    ["Words heard in silence", some((system, row) => !rows.said[row] && system.heard[row])],
    ["Repeats itself", some((system, row) => system.is_loop[row])],
    ["Could not be used", row => !usable[row]],
  ].map(([name, test]) => ({ name, rows: new Set(places.filter(test)) }));

  // --- what is chosen ----------------------------------------------------------------------------------------------

  const search = byId("search");
  const kind = byId("kind");
  const pairButton = byId("pair");
  const body = byId("rows");
  const more = byId("more");
  const table = body.closest("table");
  const sliceMenus = [...document.querySelectorAll("select[data-group]")];
  let pair = null; // [said, heard]: only rows with this confusion
  let sort = single ? "errors-0" : "change";
  let descending = true;
  let sorted = [];
  let chosen = [];
  let numShown = 0;

  const sortValues = {
    order: places,
    seconds: all(row => rows.seconds[row] ?? -1),
    change,
    wer: all(row => (usable[row] ? errors[0][row] / Math.max(1, numWords[row]) : -1)),
  };
  errors.forEach((each, system) => { sortValues[`errors-${system}`] = all(row => (usable[row] ? each[row] : -1)); });

  function reorder() {
    const values = sortValues[sort];
    const sign = descending ? -1 : 1;
    sorted = [...places].sort((one, other) => sign * (values[one] - values[other]) || one - other);
    for (const header of table.querySelectorAll("[data-sort]")) {
      const state = header.dataset.sort !== sort ? "none" : descending ? "descending" : "ascending";
      header.closest("th").setAttribute("aria-sort", state);
    }
  }

  function filter() {
    const words = plain(search.value);
    const id = search.value.trim().toLowerCase();
    const tests = [
      ...(id ? [row => (words && texts[row].includes(words)) || ids[row].includes(id)] : []),
      ...(kind.selectedIndex > 0 ? [row => kinds[kind.selectedIndex].rows.has(row)] : []),
      ...sliceMenus.filter(menu => menu.value).map(menu => row => rows.slices[row].includes(Number(menu.value))),
      ...(pair ? [isConfused] : []),
    ];
    chosen = sorted.filter(row => tests.every(test => test(row)));
    pairButton.hidden = !pair;
    body.replaceChildren();
    numShown = 0;
    showMore();
    table.setAttribute("aria-rowcount", chosen.length + 1);
    byId("status").textContent = summary();
  }

  const isConfused = row => systems.some((system, place) =>
    errors[place][row] && align(row, place).some(([said, heard]) => said === pair[0] && heard === pair[1]));

  function summary() {
    const scored = chosen.filter(row => usable[row]);
    const total = scored.reduce((sum, row) => sum + numWords[row], 0);
    const wers = errors.map((each, system) => {
      const wer = scored.reduce((sum, row) => sum + each[row], 0) / Math.max(1, total);
      return `${letters[system]} ${(100 * wer).toFixed(1)}%`.trim();
    });
    const amount = `${chosen.length.toLocaleString("en")} of ${numRows.toLocaleString("en")} utterances`;
    return total ? `${amount}, WER ${wers.join(", ")}` : amount;
  }

  function showMore() {
    const next = chosen.slice(numShown, numShown + ROWS_AT_ONCE);
    body.append(...next.map((row, place) => makeRow(row, numShown + place + 2)));
    numShown += next.length;
    more.hidden = numShown >= chosen.length;
  }

  // --- words against words -----------------------------------------------------------------------------------------

  // [said, heard, operation] of each word, as one system heard it.
  function align(row, system) {
    const said = rows.said[row].split(" ");
    const heard = systems[system].heard[row].split(" ");
    let fromSaid = 0;
    let fromHeard = 0;
    return Array.from(systems[system].operations[row], operation => [
      operation === "I" ? "" : said[fromSaid++], operation === "D" ? "" : heard[fromHeard++], operation,
    ]);
  }

  // Columns of what was said and what each system heard there. Additions between two words share columns.
  function columns(row) {
    const added = [];
    const replaced = [];
    systems.forEach((_, system) => {
      let place = 0;
      let extra = 0;
      for (const [said, heard, operation] of align(row, system)) {
        if (operation === "I") {
          const slot = ((added[place] ??= [])[extra++] ??= { said: "", heard: systems.map(() => ["", " "]) });
          slot.heard[system] = [heard, operation];
        } else {
          (replaced[place] ??= { said, heard: [] }).heard[system] = [heard, operation];
          place += 1;
          extra = 0;
        }
      }
    });
    const ends = Math.max(added.length, replaced.length);
    return Array.from({ length: ends }, (_, place) => [...(added[place] ?? []), replaced[place]]).flat().filter(Boolean);
  }

  function make(name, values = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(values)) {
      if (key === "class") element.className = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  const aloud = text => make("span", { class: "out", lang: "en", dir: "ltr" }, text);

  // The letters in which a word differs from another one, underlined.
  function contrast(word, other) {
    const one = Array.from(word);
    const two = Array.from(other);
    let start = 0;
    while (start < Math.min(one.length, two.length) && one[start] === two[start]) start += 1;
    let end = 0;
    while (end < Math.min(one.length, two.length) - start && one.at(-1 - end) === two.at(-1 - end)) end += 1;
    if (!other || start + end === 0 || start + end >= one.length) return [word];
    const rest = one.length - end;
    return [one.slice(0, start).join(""), make("u", {}, one.slice(start, rest).join("")), one.slice(rest).join("")];
  }

  function makeHeard(said, [heard, operation], system) {
    const badge = single ? [] : [make("i", { "aria-hidden": "true" }, letters[system])];
    const who = single ? "" : `${letters[system]}: `;
    if (operation === "D") return make("span", { class: "D" }, ...badge, ...(single ? [] : [make("span", { "aria-hidden": "true" }, "–")]), aloud(` ${who}not heard `));
    if (operation === " ") return make("span", { class: "nothing", "aria-hidden": "true" }, ...badge, "·");
    const how = { "S": "heard as", "I": "added", "=": "right" }[operation];
    const word = operation === "=" ? [heard] : [make("ins", {}, ...(operation === "S" ? contrast(heard, said) : [heard]))];
    return make("span", { class: operation === "=" ? "hit" : operation }, ...badge, aloud(` ${who}${how} `), ...word);
  }

  // The reference as running text; under each word that somebody missed, what was heard instead.
  function makeText(row) {
    const { code, direction } = languages[rows.language[row]];
    const text = make("p", { class: "said", lang: code, dir: direction });
    for (const { said, heard } of columns(row)) {
      if (heard.every(([, operation]) => operation === "=")) {
        text.append(`${said} `);
      } else {
        const missed = heard.every(([, operation]) => operation === "D");
        const above = said ? make(missed ? "del" : "b", {}, said) : make("span", { class: "plus", "aria-hidden": "true" }, "+");
        text.append(make("span", { class: "word" }, above, ...heard.map((each, system) => makeHeard(said, each, system))), " ");
      }
    }
    if (!text.hasChildNodes()) text.append(make("span", { class: "soft", lang: "en" }, "silence"));
    return text;
  }

  // --- rows --------------------------------------------------------------------------------------------------------

  const percent = rate => `${Math.round(100 * rate)}%`;
  const cell = (label, ...children) => make("td", { role: "cell", "data-label": label }, ...children);

  function makeRow(row, rowIndex) {
    const problem = systems.map(system => system.error[row]).find(Boolean);
    const text = problem ? make("p", { class: "problem" }, "Could not be used: ", make("code", {}, problem)) : makeText(row);
    const numbers = errors.map((each, system) => cell(single ? "errors" : `errors of ${letters[system]}`,
      problem ? "–" : String(each[row]), ...(single && !problem ? [make("small", {}, ` of ${numWords[row]}`)] : [])));
    const rate = single ? cell("WER", problem || !numWords[row] ? "–" : percent(sortValues.wer[row])) : cell("change", String(change[row]));
    const about = [rows.id[row], rows.speaker[row]].filter(Boolean).map(each => make("bdi", {}, each));
    const words = make("td", { role: "cell", class: "words" }, text, make("div", { class: "meta" }, ...about, makeDetails(row)));
    const seconds = cell("seconds", rows.seconds[row]?.toFixed(1) ?? "–");
    const play = isAudible ? [make("td", { role: "cell", class: "play" }, ...makePlay(row))] : [];
    return make("tr", { role: "row", "aria-rowindex": rowIndex }, ...play, ...numbers, rate, seconds, words);
  }

  function makeDetails(row) {
    const details = make("details", {}, make("summary", {}, "Details"));
    details.addEventListener("toggle", () => {
      if (details.childElementCount > 1) return;
      const { code, direction } = languages[rows.language[row]];
      const said = value => make("span", { class: "written", lang: code, dir: direction }, value || "–");
      const facts = [
        ["Reference as written", said(rows.written[row] || rows.said[row])],
        ...systems.map((system, place) => [single ? "Answer as written" : `Answer of ${letters[place]}`, said(system.answer[row] || system.heard[row])]),
        ["Recording", rows.recording[row]],
        ...(rows.snr_db[row] === null ? [] : [["Signal-to-noise ratio", `${rows.snr_db[row]} dB`]]),
        ["Slices", rows.slices[row].map(each => sliceNames[each].replace("=", ": ")).join(" · ") || "–"],
      ];
      details.append(make("dl", {}, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value ?? "–")))));
    });
    return details;
  }

  // --- sound -------------------------------------------------------------------------------------------------------

  const player = byId("player");
  const audio = player.querySelector("audio");
  let sounds = null; // parsed when the first one is asked for
  let playing = null; // the button

  function makePlay(row) {
    if (rows.sound[row] === null) return [];
    const button = make("button", { type: "button", "aria-label": `Play ${rows.id[row]}`, "aria-pressed": "false" }, "▶");
    button.addEventListener("click", () => (playing === button && !audio.paused ? audio.pause() : play(button, row)));
    return [button];
  }

  function play(button, row) {
    if (playing !== button) {
      if (audio.src.startsWith("blob:")) URL.revokeObjectURL(audio.src);
      audio.src = address(rows.sound[row]);
      player.querySelector("b").textContent = rows.id[row];
      byId("no-sound").hidden = true;
      player.hidden = false;
    }
    mark(false);
    playing = button;
    audio.play().catch(() => {}); // "error" says what is wrong
  }

  function address(number) {
    if (soundFolder) return beside(`${soundFolder}/${String(number).padStart(5, "0")}.flac`);
    sounds ??= JSON.parse(byId("sounds").textContent);
    const bytes = Uint8Array.from(atob(sounds[number]), character => character.charCodeAt(0));
    return URL.createObjectURL(new Blob([bytes], { type: "audio/flac" }));
  }

  // MLflow shows the page as a blob, which has no folder beside it: its server has what was stored with the run.
  function beside(file) {
    const { stored } = document.documentElement.dataset;
    if (!stored || location.protocol !== "blob:") return file;
    return `${new URL(location.pathname).origin}/get-artifact?${stored}${file}`;
  }

  function mark(isPlaying) {
    playing?.setAttribute("aria-pressed", String(isPlaying));
    if (playing) playing.textContent = isPlaying ? "❚❚" : "▶";
  }

  audio.addEventListener("play", () => mark(true));
  for (const event of ["pause", "ended"]) audio.addEventListener(event, () => mark(false));
  audio.addEventListener("error", () => { byId("no-sound").hidden = false; });

  // --- controls ----------------------------------------------------------------------------------------------------

  kind.append(...kinds.map(({ name, rows: found }) => {
    const option = make("option", {}, `${name} (${found.size.toLocaleString("en")})`);
    option.disabled = !found.size;
    return option;
  }));
  const sliceCounts = new Array(sliceNames.length).fill(0);
  for (const each of rows.slices) for (const place of each) sliceCounts[place] += 1;
  for (const menu of sliceMenus) {
    for (const option of [...menu.options].slice(1)) {
      option.value = sliceNames.indexOf(`${menu.dataset.group}=${option.value}`);
      option.textContent += ` (${sliceCounts[option.value].toLocaleString("en")})`;
    }
  }

  const form = byId("filters");
  search.addEventListener("input", filter);
  form.addEventListener("change", filter);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => { pair = null; setTimeout(filter); }); // fields are empty only afterwards
  pairButton.addEventListener("click", () => { pair = null; filter(); search.focus(); });
  more.addEventListener("click", showMore);
  new IntersectionObserver(seen => seen.some(each => each.isIntersecting) && showMore(), { rootMargin: "1000px" }).observe(more);
  byId("slice-menus").open = matchMedia("(min-width: 40rem)").matches;

  for (const header of table.querySelectorAll("[data-sort]")) {
    header.addEventListener("click", () => {
      descending = sort === header.dataset.sort ? !descending : header.dataset.sort !== "order";
      sort = header.dataset.sort;
      reorder();
      filter();
    });
  }

  // A slice or a confusion elsewhere on the page leads to its utterances, and to nothing else.
  document.addEventListener("click", event => {
    const link = event.target.closest("a[data-slice], a[data-said]");
    if (!link) return;
    form.reset(); // filters, once what follows is chosen
    if (link.dataset.slice) {
      const wanted = String(sliceNames.indexOf(link.dataset.slice));
      for (const menu of sliceMenus) if ([...menu.options].some(option => option.value === wanted)) menu.value = wanted;
      byId("slice-menus").open = true;
    } else {
      pair = [link.dataset.said, link.dataset.heard];
      byId("pair-said").textContent = pair[0] || "nothing";
      byId("pair-heard").textContent = pair[1] || "nothing";
    }
  });

  reorder();
  filter();
})();
