// The overview: a table of all latents. Of its rows those exist that are in sight.

const DENSE = 0.1; // a dense latent fires on more than this share of tokens: metrics.md
const AHEAD = 8; // rows that are made above and below those in sight

const narrow = matchMedia("(max-width: 640px)");
const row_height = () => narrow.matches ? 68 : 38;

const COLUMNS = [
  { name: "latent", head: "latent", title: "its number" },
  { name: "firing_rate", head: "firing rate", title: "share of tokens on which it is active", word: "rate" },
  { name: "max_activation", head: "max", title: "largest activation", word: "max" },
  { name: "mean_active", head: "mean", title: "mean activation where it is active", word: "mean" },
  { name: "decoder_norm", head: "norm", title: "norm of its decoder row", word: "norm" },
  { name: "top_tokens", head: "top tokens", title: "the tokens with most of its activation", word: "top" },
  { name: "promoted", head: "promotes", title: "the tokens whose logits it raises most", word: "promotes" },
  { name: "suppressed", hidden: true, word: "suppresses" },
  { name: "explanation", head: "explanation", title: "what it is taken to mean", word: "explanation" },
  { name: "detection", hidden: true, word: "detection" },
  { name: "fuzzing", hidden: true, word: "fuzzing" },
];
const SCORES = ["detection", "fuzzing"];
const NUMBERS = ["firing_rate", "max_activation", "mean_active", "decoder_norm", ...SCORES];
const TOKENS = ["top_tokens", "promoted", "suppressed"];

class Overview {
  constructor({ info, columns, words }) {
    Object.assign(this, { info, columns, words, sorted: new Map(), sort: { name: "latent", falls: false } });
    this.size = columns.firing_rate.length;
    this.columns.latent = Int32Array.from({ length: this.size }, (_, latent) => latent);
    this.shown = COLUMNS.filter(({ name, hidden }) => !hidden && this.has(name));
    this.small = words.map(word => word.toLowerCase());
    this.explained = this.columns.explanation?.map(text => (text ?? "").toLowerCase());
    this.order = this.columns.latent;
  }

  // Whether a column says anything of any latent. A dictionary that reaches no unembedding promotes nothing.
  has(name) {
    const column = this.columns[name];
    return Boolean(column) && (!TOKENS.includes(name) || column.some(tokens => tokens.length));
  }

  is(latent, state) {
    const rate = this.columns.firing_rate[latent];
    return state === "all" || (state === "dead" ? rate === 0 : state === "alive" ? rate > 0 : rate > DENSE);
  }

  token(name, latent) {
    const tokens = this.columns[name][latent];
    return tokens.length ? this.words[tokens[0]] : null;
  }

  // All latents in the order of a column. Those without a value come last, whichever way it goes.
  sorted_by(name, falls) {
    const key = `${name} ${falls}`;
    if (!this.sorted.has(key)) {
      const values = TOKENS.includes(name) ? this.ranks(name) : this.columns[name];
      const text = name === "explanation", sign = falls ? -1 : 1;
      const there = latent => values[latent] !== null && values[latent] !== "";
      const known = this.columns.latent.filter(there), unknown = this.columns.latent.filter(latent => !there(latent));
      const by_text = (a, b) => values[a] < values[b] ? -1 : Number(values[a] > values[b]);
      const compare = text ? by_text : (a, b) => values[a] - values[b];
      known.sort((a, b) => sign * compare(a, b) || a - b);
      const all = new Int32Array(this.size);
      all.set(known);
      all.set(unknown, known.length);
      this.sorted.set(key, all);
    }
    return this.sorted.get(key);
  }

  // The rank of each latent's first token among all words, by their text without spaces around it.
  ranks(name) {
    const trimmed = this.small.map(word => word.trim());
    const by_text = trimmed.map((_, place) => place);
    by_text.sort((a, b) => trimmed[a] < trimmed[b] ? -1 : Number(trimmed[a] > trimmed[b]));
    const rank = new Float64Array(by_text.length);
    by_text.forEach((place, number) => { rank[place] = number; });
    return this.columns[name].map(tokens => tokens.length ? rank[tokens[0]] : null);
  }

  // Keep the latents for which all of a search holds.
  select(search, state) {
    const { tests, misread } = this.read(search);
    const sorted = this.sorted_by(this.sort.name, this.sort.falls);
    this.order = sorted.filter(latent => this.is(latent, state) && tests.every(test => test(latent)));
    return misread;
  }

  // The words of a search as questions that a latent answers, and those words that ask nothing.
  read(search) {
    const tests = [], misread = [];
    for (const [, name, sign, quoted, plain] of search.matchAll(/(?:([a-z]+)(:|[<>]=?|=))?(?:"([^"]*)"?|(\S+))/gi)) {
      const column = COLUMNS.find(({ word }) => word && word === name?.toLowerCase())?.name;
      const value = quoted ?? plain;
      if (name && NUMBERS.includes(column) && sign !== ":") {
        const limit = parseFloat(value) / (value.endsWith("%") ? 100 : 1);
        if (Number.isNaN(limit)) misread.push(`${name}${sign}${value}`);
        else tests.push(this.has(column) ? compared(this.columns[column], sign, limit) : () => false);
      } else if (sign === ":" && column && !NUMBERS.includes(column)) {
        tests.push(this.has(column) ? this.told(value, [column]) : () => false);
      } else {
        tests.push(this.told((name ?? "") + (sign ?? "") + value, [...TOKENS, "explanation"], quoted === undefined));
      }
    }
    return { tests, misread };
  }

  // The question whether a text is part of what some columns say, or the number of the latent.
  told(text, names, may_be_number = false) {
    const wanted = text.toLowerCase(), latent = may_be_number && /^#?\d+$/.test(text) ? Number(text.replace("#", "")) : -1;
    const found = Uint8Array.from(this.small, word => word.includes(wanted));
    const columns = names.filter(name => TOKENS.includes(name)).map(name => this.columns[name]);
    const explained = names.includes("explanation") && this.explained;
    return one => one === latent || columns.some(column => column[one].some(place => found[place]))
      || (explained && explained[one].includes(wanted));
  }

  // The latent some places further in the table, or by number if the table does not have this one.
  step(latent, by) {
    const place = this.order.indexOf(latent);
    return place < 0 ? Math.max(0, Math.min(this.size - 1, latent + by)) : this.order[place + by];
  }

  random() {
    return this.order.length ? this.order[Math.floor(Math.random() * this.order.length)] : this.columns.latent.at(Math.random() * this.size);
  }
}

function compared(values, sign, limit) {
  const holds = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b }[sign];
  return latent => values[latent] !== null && holds(values[latent], limit);
}

// The rows in sight.

function draw_columns(overview, sort_by) {
  find("table").setAttribute("aria-colcount", overview.shown.length);
  find("table").classList.toggle("has-explanation", overview.has("explanation"));
  find("table").classList.toggle("has-promoted", overview.has("promoted"));
  find("columns").replaceChildren(...overview.shown.map(({ name, head, title }) => {
    const { name: by, falls } = overview.sort;
    const button = element("button", { type: "button", title: `Sort by ${title}` }, head);
    button.addEventListener("click", () => sort_by(name));
    const sorted = by !== name ? "none" : falls ? "descending" : "ascending";
    return element("div", { role: "columnheader", class: name, "aria-sort": sorted }, button);
  }));
}

function draw_rows(overview) {
  const scroller = find("scroller"), rows = find("rows"), height = row_height();
  rows.style.height = `${overview.order.length * height}px`;
  const first = Math.max(0, Math.floor(scroller.scrollTop / height) - AHEAD);
  const end = Math.min(overview.order.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + AHEAD);
  const focused = document.activeElement?.closest?.("#rows [data-place]")?.dataset.place;
  const made = [];
  for (let place = first; place < end; place++) made.push(draw_row(overview, place, height));
  rows.replaceChildren(...made);
  find("table").setAttribute("aria-rowcount", overview.order.length + 1);
  if (focused !== undefined) link_at(Number(focused))?.focus({ preventScroll: true });
}

const link_at = place => document.querySelector(`#rows [data-place="${place}"] a`);

function draw_row(overview, place, height) {
  const latent = overview.order[place];
  const row = element("div", { role: "row", "aria-rowindex": place + 2, "data-place": place });
  row.style.transform = `translateY(${place * height}px)`;
  row.style.height = `${height}px`;
  row.classList.toggle("dead", overview.is(latent, "dead"));
  row.classList.toggle("unexplained", !overview.columns.explanation?.[latent]);
  row.append(...overview.shown.map(({ name }) => element("div", { role: "cell", class: name }, ...cell(overview, name, latent))));
  return row;
}

function cell(overview, name, latent) {
  const value = overview.columns[name][latent];
  if (name === "latent") return [element("a", { href: `#latent/${latent}` }, String(latent))];
  if (name === "firing_rate") return value ? [meter(1 + Math.log10(value) / 6), share(value)] : [element("em", {}, "dead")];
  if (TOKENS.includes(name)) return value.map(place => token(overview.words[place]));
  return [name === "explanation" ? element("bdi", {}, value ?? "") : digits(value)];
}

// Bring a row into sight, and the keyboard to it.
function go_to_row(overview, place) {
  const scroller = find("scroller"), height = row_height();
  if (place < 0 || place >= overview.order.length) return;
  const top = place * height, bottom = top + height - scroller.clientHeight;
  scroller.scrollTop = Math.max(bottom, Math.min(top, scroller.scrollTop));
  draw_rows(overview);
  link_at(place)?.focus({ preventScroll: true });
}

// How many latents fire how often. Dragging over a part of it searches for that part.
function draw_rates(overview, search_for) {
  const BINS = 48, lowest = -6, counts = new Array(BINS).fill(0);
  for (const rate of overview.columns.firing_rate) {
    if (rate) counts[Math.max(0, Math.min(BINS - 1, Math.floor((1 - Math.log10(rate) / lowest) * BINS)))]++;
  }
  const most = Math.max(1, ...counts), edge = bin => 10 ** (lowest * (1 - bin / BINS));
  const words = counts.map((number, bin) => `${count(number)} latents fire on ${share(edge(bin))} to ${share(edge(bin + 1))} of tokens`);
  const chart = bars(counts.map(number => number / most), words, "How many latents have which firing rate", 44);
  const bin_at = event => {
    const { left, width } = chart.getBoundingClientRect();
    return Math.max(0, Math.min(BINS - 1, Math.floor((event.clientX - left) / width * BINS)));
  };
  let begin = null;
  const mark = (a, b) => [...chart.children].forEach((bar, bin) => bar.classList.toggle("chosen", bin >= a && bin <= b));
  chart.addEventListener("pointerdown", event => { begin = bin_at(event); mark(begin, begin); chart.setPointerCapture(event.pointerId); });
  chart.addEventListener("pointermove", event => { if (begin !== null) mark(Math.min(begin, bin_at(event)), Math.max(begin, bin_at(event))); });
  chart.addEventListener("pointerup", event => {
    if (begin === null) return;
    const ends = [begin, bin_at(event)].sort((a, b) => a - b);
    begin = null;
    search_for(`rate>=${edge(ends[0]).toPrecision(3)} rate<${edge(ends[1] + 1).toPrecision(3)}`);
  });
  find("rates").replaceChildren(chart, axis("0.0001 %", "0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"));
}
