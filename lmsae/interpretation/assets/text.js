// Elements and text. Whatever a file says is set as text and never read as markup.

const find = id => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const SIGNS = { "\n": "↵", "\t": "→", "\r": "␍" };
// Signs that cannot be seen and would change how the page around them is laid out.
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/g;
// Signs that cannot be seen and join or part the letters beside them.
const JOINERS = /[\u00ad\u200b-\u200d\u2060-\u2064\ufeff]/g;

const number_of = sign => `‹U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;

// A token's text in running text: line ends and tabs are seen, and still do what they do.
function running(text) {
  return text.replace(CONTROLS, sign => sign in SIGNS ? SIGNS[sign] + (sign === "\r" ? "" : sign) : number_of(sign));
}

// A token's text on its own, in one line, with all that is in it to be seen.
function alone(text) {
  if (!text) return "‹empty›";
  const seen = text.replace(CONTROLS, sign => SIGNS[sign] ?? number_of(sign)).replace(JOINERS, number_of);
  const spaces = seen.replace(/ {4,}/g, run => `␣×${run.length}`).replaceAll(" ", "␣");
  return (/^\p{M}/u.test(seen) ? "◌" : "") + spaces;
}

function token(text) {
  const made = element("bdi", { class: "token" });
  for (const part of alone(text).split(/(␣×\d+|[␣↵→␍]+)/)) {
    if (part) made.append(/^[␣↵→␍]/.test(part) ? element("i", {}, part) : part);
  }
  return made;
}

// Numbers for people.

const count = number => number.toLocaleString("en");

function digits(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  if (size && (size < 0.001 || size >= 1e6)) return number.toExponential(1);
  return number.toLocaleString("en", { maximumSignificantDigits: size >= 100 ? 4 : 3 });
}

const share = number => number && number < 1e-5 ? `${(100 * number).toExponential(1)} %` : `${digits(100 * number)} %`;
