// A latent's page.

// Contexts that are shown before the reader asks for all: of the largest activations, and of each bin.
const OF_TOP = 8, OF_BIN = 4;

function draw_detail(overview, latent, navigate) {
  const columns = overview.columns, rate = columns.firing_rate[latent];
  const head = element("header", {},
    element("nav", { "aria-label": "Latents" },
      element("a", { href: "#", title: "Back to the table (Esc)" }, "← all latents"),
      step_link(overview, latent, -1, "‹ previous", "The previous latent of the table (k)"),
      step_link(overview, latent, 1, "next ›", "The next latent in the table (j)"),
      button("random", "A random latent of the table (r)", navigate.random),
      button("?", "Keys and searches (?)", navigate.help)),
    element("h1", { tabindex: "-1" }, `Latent ${latent}`, " ",
      ...["dead", "dense"].filter(state => overview.is(latent, state)).map(state => element("span", { class: "state" }, state))));
  if (columns.explanation?.[latent]) head.append(element("p", { class: "explained" }, element("bdi", {}, columns.explanation[latent])));
  const facts = element("dl", { class: "facts" },
    fact("firing rate", rate ? share(rate) : "0", `active on ${count(columns.active_tokens[latent])} of ${count(overview.info.tokens)} tokens`),
    fact("max activation", digits(columns.max_activation[latent])),
    fact("mean where active", digits(columns.mean_active[latent])),
    fact("decoder norm", digits(columns.decoder_norm[latent])),
    ...SCORES.filter(name => (columns[name]?.[latent] ?? null) !== null).map(name =>
      fact(name, digits(columns[name][latent]), "balanced accuracy of the explanation: 0.5 is guessing")));
  const rest = element("div", { class: "parts", "aria-busy": "true" });
  find("detail").replaceChildren(head, facts, rest);
  document.title = `Latent ${latent} · ${overview.title}`;
  return { facts, rest };
}

function step_link(overview, latent, by, text, title) {
  const other = overview.step(latent, by);
  if (other === undefined || other === latent) return element("span", { class: "off" }, text);
  return element("a", { href: `#latent/${other}`, title, rel: by < 0 ? "prev" : "next" }, text);
}

function button(text, title, act) {
  const made = element("button", { type: "button", title }, text);
  made.addEventListener("click", act);
  return made;
}

const fact = (name, value, title = "") =>
  element("div", title ? { title } : {}, element("dt", {}, name), element("dd", {}, value));

function fill_detail(overview, latent, { facts, rest }, found, words) {
  const text = place => words[place][1];
  if (found.encoder_norm !== null) facts.append(fact("encoder norm", digits(found.encoder_norm)));
  const kinds = [...new Set(found.contexts.map(({ kind }) => kind))];
  const quantiles = kinds.filter(kind => kind !== "top").sort((a, b) => Number(b.slice(1)) - Number(a.slice(1)));
  const largest = overview.columns.max_activation[latent];
  const list = kind => draw_contexts(name_kind(kind, overview.info.quantiles, largest),
    found.contexts.filter(one => one.kind === kind), words, largest, kind === "top" ? OF_TOP : OF_BIN);
  const parts = [
    element("section", { class: "top" }, ...(kinds.includes("top") ? list("top") : [nothing(overview, latent)])),
    element("div", { class: "side" }, ...[
      histogram(found, largest, overview.info.signed),
      logits(found, text),
      top_tokens(found, text),
      positions(found, overview.info.position_bins),
      shares("Writes", found.write_norms, overview.info.writes),
      shares("Reads", found.read_norms, overview.info.reads),
      relatives(overview, "Neighbors", "by cosine of decoder rows", found.neighbors),
      relatives(overview, "Companions", "by correlation of firing (phi)", found.companions),
    ].filter(Boolean)),
    element("section", { class: "rest" }, ...quantiles.flatMap(list)),
  ];
  rest.replaceChildren(...parts);
  rest.removeAttribute("aria-busy");
}

const nothing = (overview, latent) => element("p", { class: "soft" }, overview.is(latent, "dead")
  ? `This latent is not active on any of the ${count(overview.info.tokens)} tokens that were read.` : "No contexts were kept.");

// The bins of samples have equal width from 0 to the largest activation.
function name_kind(kind, bins, largest) {
  if (kind === "top") return ["Largest activations", ""];
  const bin = Number(kind.slice(1)), edge = number => digits(number * largest / bins);
  return [`From ${edge(bin - 1)} to ${edge(bin)}`, `a sample of bin ${bin} of ${bins}`];
}

// Contexts.

const told = new WeakMap(); // of each token's element, the words of its tip

function draw_contexts([title, note], contexts, words, largest, few) {
  const list = element("div", { class: "contexts" }, ...contexts.slice(0, few).map(one => draw_context(one, words, largest)));
  const made = [element("h2", {}, title, " ", element("small", {}, note)), list];
  if (contexts.length > few) {
    const more = button(`${contexts.length - few} more`, "Show all of them", () => {
      list.append(...contexts.slice(few).map(one => draw_context(one, words, largest)));
      more.remove();
    });
    more.classList.add("more");
    made.push(more);
  }
  return made;
}

function draw_context(context, words, largest) {
  const activations = new Map(), pattern = new Map(context.pattern);
  for (let turn = 0; turn < context.activations.length; turn += 2) activations.set(context.activations[turn], context.activations[turn + 1]);
  const most = Math.max(...pattern.values(), 0);
  const text = element("p", { class: "text", dir: "auto" }, ...context.tokens.map((place, number) => {
    const position = context.start + number, activation = activations.get(number) ?? 0, weight = pattern.get(position);
    const made = element("span", {}, running(words[place][1]));
    if (activation) {
      made.className = activation > 0 ? "hot" : "cold";
      made.style.setProperty("--share", Math.min(1, 0.12 + 0.88 * Math.abs(activation) / largest));
    }
    if (position === context.position) made.classList.add("peak");
    if (weight > 0) {
      made.classList.add("source");
      made.style.setProperty("--weight", weight / most);
    }
    told.set(made, { text: words[place][1], id: words[place][0], activation, position, weight });
    return made;
  }));
  const where = element("p", { class: "where" });
  if (context.document) where.append(element("bdi", { title: context.document }, context.document), " · ");
  where.append(`context ${context.context}, position ${context.position}`);
  const before = [...pattern].filter(([position, weight]) => weight > 0 && !(position >= context.start && position < context.start + context.tokens.length));
  if (before.length) where.append(` · also attends to ${before.map(([position, weight]) => `position ${position} (${digits(weight)})`).join(", ")}`);
  return element("article", { class: "context" }, element("span", { class: "amount", title: "activation at the peak" }, digits(context.activation)),
    element("div", {}, text, where));
}

function show_tip(target) {
  const tip = find("tip"), { text, id, activation, position, weight } = told.get(target);
  tip.replaceChildren(token(text), element("span", {}, `activation ${digits(activation)}`), element("span", {}, `position ${position}`),
    element("span", {}, `token ${id}`));
  if (weight !== undefined) tip.append(element("span", {}, `attended ${digits(weight)}`));
  tip.hidden = false;
  const at = target.getClientRects()[0], { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(innerWidth - width - 6, at.left))}px`;
  tip.style.top = `${at.top - height - 6 > 0 ? at.top - height - 6 : at.bottom + 6}px`;
}

// What stands beside the contexts.

const part = (title, note, ...children) => element("section", { class: "part" },
  element("h2", {}, title, ...(note ? [" ", element("small", {}, note)] : [])), ...children);

function histogram({ histogram: counts }, largest, signed) {
  if (!counts?.some(Boolean)) return null;
  const most = Math.log10(1 + Math.max(...counts)), width = largest / counts.length;
  const words = counts.map((number, bin) => `${count(number)} tokens from ${digits(bin * width)} to ${digits((bin + 1) * width)}`);
  return part("Activations", `tokens${signed ? " by size" : ""}, on a log scale`,
    bars(counts.map(number => Math.log10(1 + number) / most), words, "Histogram of activations"), axis("0", digits(largest / 2), digits(largest)));
}

function logits({ promoted, suppressed }, text) {
  if (!promoted && !suppressed) return null;
  const most = Math.max(...[...promoted ?? [], ...suppressed ?? []].map(([, logit]) => Math.abs(logit)), 1e-30);
  const list = (title, kind, tokens) => element("div", {}, element("h3", {}, title), element("ol", {}, ...(tokens ?? []).map(([place, logit]) =>
    element("li", {}, meter(Math.abs(logit) / most, kind), token(text(place)), element("span", {}, digits(logit))))));
  return part("Logits", "of tokens that it", element("div", { class: "pair" },
    list("promotes", "hot", promoted), list("suppresses", "cold", suppressed)));
}

function top_tokens({ top_tokens: tokens }, text) {
  if (!tokens?.length) return null;
  return part("Top tokens", "and how often it fires on them", element("ol", {}, ...tokens.map(([place, active, rate, mean]) => element("li",
    { title: `active on ${count(active)} of them, ${digits(mean)} on average` }, meter(rate, "plain"), token(text(place)), element("span", {}, share(rate))))));
}

function positions({ position_rate: rates }, edges) {
  if (!rates?.some(Boolean) || rates.length < 2) return null;
  const most = Math.max(...rates);
  const words = rates.map((rate, bin) => `positions ${edges[bin]} to ${edges[bin + 1] - 1}: ${rate === null ? "no tokens" : share(rate)}`);
  return part("Firing rate by position", `up to ${share(most)}`,
    bars(rates.map(rate => (rate ?? 0) / most), words, "Firing rate by position in the context", 60), axis(String(edges[0]), String(edges.at(-1) - 1)));
}

function shares(title, norms, names) {
  if (!norms || norms.length < 2) return null;
  return part(title, "share of the squared norm", element("ol", {}, ...norms.map((norm, number) =>
    element("li", {}, meter(norm, "plain"), element("bdi", { class: "name" }, name_place(names[number], names)), element("span", {}, share(norm))))));
}

// A hook point, and its model if the dictionary has several.
const name_place = ({ model, hook_point }, places) =>
  new Set(places.map(place => place.model)).size > 1 ? `${hook_point} of model ${model}` : hook_point;

function relatives(overview, title, note, found) {
  if (!found?.length) return null;
  return part(title, note, element("ol", {}, ...found.map(([latent, near]) => {
    const first = overview.token("top_tokens", latent);
    return element("li", {}, meter(Math.abs(near), near < 0 ? "cold" : "plain"), element("a", { href: `#latent/${latent}` }, String(latent)),
      ...(first === null ? [] : [token(first)]), element("span", {}, digits(near)));
  })));
}
