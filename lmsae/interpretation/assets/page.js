// The page: its files, its address, and the keyboard.

const KEPT = 24; // files of latents that stay in memory
const waiting = new Map(), files = new Map();

// Load a file of data/, unless it is there. A file is a script that calls take().
function load(name) {
  if (!files.has(name)) {
    files.set(name, new Promise((resolve, reject) => {
      waiting.set(name, resolve);
      const script = element("script", { src: `data/${name}.js`, charset: "utf-8" });
      script.addEventListener("error", () => {
        files.delete(name);
        reject(new Error(`data/${name}.js cannot be read. This page needs the folder data/ beside it: copy or unpack both.`));
      });
      script.addEventListener("load", () => script.remove());
      document.head.append(script);
    }));
    for (const old of [...files.keys()].filter(one => one !== "latents").slice(0, -KEPT)) files.delete(old);
  }
  return files.get(name);
}

window.take = (name, data) => {
  waiting.get(name)?.(data);
  waiting.delete(name);
};

function complain({ message }) {
  find("trouble").textContent = message;
  find("trouble").hidden = false;
}

load("latents").then(start).catch(complain);

function start(data) {
  const overview = new Overview(data), { info } = data;
  const row = decodeURIComponent(location.pathname).match(/\/rows\/([^/]+)\/page\//)?.[1];
  overview.title = row ?? data.places;
  find("heading").textContent = row ?? "Latents";
  const text = `${count(info.tokens)} ${info.split === "train" ? "training" : "held-out"} tokens of ${info.dataset}`;
  find("about").textContent = [...info.models, data.places, `${info.geometry}, ${info.act_fn}`, text].join(" · ");
  document.title = overview.title;
  let current = null, place = -1, is_searching = false;

  // The table.

  function select() {
    const misread = overview.select(find("search").value, find("state").value);
    find("misread").hidden = !misread.length;
    find("misread").textContent = misread.length ? `not understood: ${misread.join(" ")}` : "";
    const all = overview.size, kept = overview.order.length;
    find("count").textContent = kept === all ? `${count(all)} latents` : `${count(kept)} of ${count(all)} latents`;
    find("scroller").scrollTop = 0;
    place = -1;
    draw_rows(overview);
  }

  function sort_by(name) {
    const { name: before, falls } = overview.sort, numbers = NUMBERS.includes(name);
    overview.sort = { name, falls: name === before ? !falls : numbers };
    draw_columns(overview, sort_by);
    select();
    document.querySelector(`#columns .${name} button`)?.focus();
  }

  function search_for(text) {
    find("search").value = text;
    select();
  }

  for (const option of find("state").options) {
    const number = overview.columns.latent.filter(latent => overview.is(latent, option.value)).length;
    option.textContent = `${option.value} (${count(number)})`;
  }
  draw_columns(overview, sort_by);
  draw_rates(overview, search_for);
  find("search").addEventListener("input", select);
  find("state").addEventListener("change", select);
  let due = false;
  const redraw = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; draw_rows(overview); });
  };
  find("scroller").addEventListener("scroll", redraw, { passive: true });
  addEventListener("resize", redraw);

  // The address: #latent/123, or nothing for the table.

  const navigate = {
    open: latent => { if (latent !== undefined && latent !== null) location.hash = `#latent/${latent}`; },
    random: () => navigate.open(overview.random()),
    help: () => find("help").showModal(),
  };

  async function show() {
    const asked = location.hash.match(/^#latent\/(\d+)$/)?.[1];
    const latent = asked !== undefined && Number(asked) < overview.size ? Number(asked) : null;
    const before = current;
    current = latent;
    find("tip").hidden = true;
    find("trouble").hidden = asked === undefined || latent !== null;
    if (asked !== undefined && latent === null) find("trouble").textContent = `There is no latent ${asked}: they are 0 to ${overview.size - 1}.`;
    find("overview").hidden = latent !== null;
    find("detail").hidden = latent === null;
    if (latent === null) {
      document.title = overview.title;
      draw_rows(overview);
      if (is_searching) search();
      else if (before !== null) go_to_row(overview, place = overview.order.indexOf(before));
      is_searching = false;
      return;
    }
    const parts = draw_detail(overview, latent, navigate);
    scrollTo(0, 0);
    document.querySelector("#detail h1").focus({ preventScroll: true });
    try {
      const { latents, words } = await load(String(Math.floor(latent / data.latents_a_file)));
      if (current === latent) fill_detail(overview, latent, parts, latents[latent % data.latents_a_file], words);
    } catch (error) {
      complain(error);
    }
  }

  addEventListener("hashchange", show);
  find("random").addEventListener("click", navigate.random);
  find("help-button").addEventListener("click", navigate.help);

  // The keyboard.

  function step(by) {
    if (current !== null) return navigate.open(overview.step(current, by));
    const focused = document.activeElement?.closest?.("#rows [data-place]");
    place = Math.max(0, Math.min(overview.order.length - 1, (focused ? Number(focused.dataset.place) : place) + by));
    go_to_row(overview, place);
  }

  function search() {
    if (current !== null) {
      is_searching = true; // once the address has changed
      location.hash = "";
      return;
    }
    find("search").focus();
    find("search").select();
  }

  const KEYS = {
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
    ArrowRight: () => current !== null && step(1), ArrowLeft: () => current !== null && step(-1),
    r: navigate.random, "/": search, "?": navigate.help,
    Escape: () => { if (current !== null) location.hash = ""; },
  };

  // A table that nothing is focused in is scrolled too.
  const scroll = share => { find("scroller").scrollTop += share * find("scroller").clientHeight; };
  const SCROLLS = {
    PageDown: () => scroll(0.9), PageUp: () => scroll(-0.9),
    Home: () => go_to_row(overview, place = 0), End: () => go_to_row(overview, place = overview.order.length - 1),
  };

  addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || find("help").open) return;
    if (event.target === find("search")) {
      if (event.key === "Escape") { search_for(""); find("search").blur(); event.preventDefault(); }
      if (event.key === "ArrowDown" || event.key === "Enter") { place = -1; step(1); event.preventDefault(); }
      return;
    }
    if (event.target.closest?.("select, input")) return;
    // In a latent's page the arrows up and down scroll.
    if (current !== null && /^Arrow(Up|Down)$/.test(event.key)) return;
    const act = KEYS[event.key] ?? (current === null ? SCROLLS[event.key] : undefined);
    if (act) { event.preventDefault(); act(); }
  });

  // What the pointer is on.

  const tip = event => {
    const target = event.target.closest?.(".text span");
    if (target && told.has(target)) show_tip(target);
    else find("tip").hidden = true;
  };
  find("detail").addEventListener("pointerover", tip);
  find("detail").addEventListener("pointerdown", tip);
  find("detail").addEventListener("pointerleave", () => { find("tip").hidden = true; });
  addEventListener("scroll", () => { find("tip").hidden = true; }, { passive: true });

  select();
  show();
}
