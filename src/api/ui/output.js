// A command's output in a window that follows it: any bytes become lines of plain text with a terminal's colours, and
// however many come, only the last part is kept. Earlier parts are fetched one at a time, so that no size is too large.

import { Unreachable, follow, piece as fetchPiece } from "./api.js";
import { bytes, h, setText, show } from "./dom.js";

/** Characters kept in the window. What was before is in the download. */
export const KEPT = 1 << 20;
/** Characters in one element: dropping one at the top must cost little. */
const BLOCK = 32 << 10;
/** Characters of a line that has no end yet, and of an escape sequence. */
const LINE = 16 << 10;
const ESCAPE = 1 << 10;
/** Bytes of the end of an output that are fetched first. */
const TAIL_BYTES = 256 << 10;
/** Bytes of an earlier part, and bytes searched at a time. */
const PART_BYTES = 256 << 10;
const SEARCH_BYTES = 1 << 20;
/** Shown before what was found. */
const BEFORE_BYTES = 4 << 10;
/** Coloured pieces in one block; more are shown plain. */
const COLOURED = 4_000;
/** Before it is tried again, in milliseconds. */
const RETRY_MS = 1_500;

// colours, cursor movements, titles of terminals
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -/]*[0-OQ-WYZ\\`-~])/g;
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/;
// of these, the colours
const COLOUR = /^\x1b\[([0-9;]*)m$/;
// stands for the escape of a colour within a line
const MARK = "\u{f8ff}";
const CONTROLS = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;

/**
 * Turns bytes into lines: a terminal's colours are left out (or, if asked for, marked), what a `\r` writes over is left
 * out, too, other control characters are shown.
 */
export class Lines {
  #colours;
  #decoder = new TextDecoder();
  #held = "";
  #line = "";

  constructor(colours = false) {
    this.#colours = colours;
  }

  /** What is complete, and the line that is not yet. */
  push(piece) {
    return this.#take(this.#held + this.#decoder.decode(piece, { stream: true }), false);
  }

  end() {
    return this.#take(this.#held + this.#decoder.decode(), true);
  }

  #take(text, isEnd) {
    this.#held = "";
    if (this.#colours) {
      text = text.replaceAll(MARK, "\ufffd").replace(ESCAPES, (found) => {
        const colour = COLOUR.exec(found);
        return colour ? `${MARK}${colour[1]}${MARK}` : "";
      });
    } else {
      text = text.replace(ESCAPES, "");
    }
    const unfinished = isEnd ? null : UNFINISHED.exec(text.slice(-ESCAPE));
    if (unfinished) {
      [this.#held] = unfinished;
      text = text.slice(0, text.length - this.#held.length);
    }
    text = text.replace(CONTROLS, (c) => String.fromCharCode(c === "\x7f" ? 0x2421 : 0x2400 + c.charCodeAt(0)));
    const parts = (this.#line + text).split("\n");
    this.#line = parts.pop();
    let done = parts.map((line) => `${written(line)}\n`).join("");
    if (this.#line.includes("\r")) {
      // only what can still be seen, and a last `\r` that may yet become the end of the line
      const ended = this.#line.endsWith("\r") ? "\r" : "";
      this.#line = written(this.#line) + ended;
    }
    if (this.#line.length > LINE) {
      done += written(this.#line);
      this.#line = "";
    }
    return { done, line: written(this.#line) };
  }
}

/** A line as it stands at the end: `\r` goes back to its start. */
function written(line) {
  const text = line.replace(/\r+$/, "");
  return text.slice(text.lastIndexOf("\r") + 1);
}

/** The classes of text after a colour's numbers; `old`: those before. */
function styled(old, numbers) {
  let { bold, colour } = old;
  const codes = numbers.split(";").map(Number);
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at];
    if (code === 0) [bold, colour] = [false, null];
    else if (code === 1) bold = true;
    else if (code === 22) bold = false;
    else if (code >= 30 && code <= 37) colour = code - 30;
    else if (code >= 90 && code <= 97) colour = code - 90;
    else if (code === 39) colour = null;
    else if (code === 38 || code === 48) {
      // one of 256, of which the first 16 have names; or three numbers
      if (code === 38 && codes[at + 1] === 5) colour = codes[at + 2] < 16 ? codes[at + 2] % 8 : null;
      at += codes[at + 1] === 5 ? 2 : 4;
    }
  }
  return { bold, colour };
}

const PLAIN = { bold: false, colour: null };

/** Appends text to a node, in pieces of one colour each; gives the style at the end. */
function append(node, text, style) {
  const parts = text.split(MARK);
  let now = style;
  parts.forEach((part, at) => {
    if (at % 2 === 1) {
      now = styled(now, part);
    } else if (part !== "") {
      const isPlain = (now.colour === null && !now.bold) || node.childNodes.length > COLOURED;
      if (!isPlain) {
        const names = [now.bold ? "bold" : "", now.colour === null ? "" : `ansi${now.colour}`].join(" ").trim();
        node.append(h("span", { class: names }, part));
      } else if (node.lastChild?.nodeType === Node.TEXT_NODE) {
        node.lastChild.appendData(part);
      } else {
        node.append(part);
      }
    }
  });
  return now;
}

/** The window. `target(…)` says what it shows. */
export function outputPanel(app) {
  const blocks = h("span");
  const rest = h("span");
  const text = h("pre", { class: "output", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Output" }, blocks, rest);
  const follows = h("input", {
    type: "checkbox", checked: true,
    on: {
      change: () => {
        if (follows.checked && part !== null) restart();
        else if (follows.checked) toEnd();
      },
    },
  });
  const wraps = h("input", { type: "checkbox", checked: true, on: { change: () => text.classList.toggle("cut", !wraps.checked) } });
  const find = h("input", {
    type: "search", placeholder: "Find in all of it", "aria-label": "Find in the output", autocomplete: "off", spellcheck: "false",
    on: { keydown: (event) => { if (event.key === "Enter") search(); }, input: () => { foundAt = -1; } },
  });
  const step = (label, click) => h("button", { on: { click } }, label);
  const first = step("Beginning", () => open(0));
  const earlier = step("Earlier", () => open(Math.max(0, (part ? part.from : position - kept) - PART_BYTES)));
  const later = step("Later", () => open(part.until, true));
  const last = step("End", () => restart());
  const note = h("p", { class: "quiet" });
  const status = h("span", { class: "quiet" });
  const tools = h(
    "span",
    { class: "follow" },
    h("label", {}, follows, " Follow"), " ", h("label", {}, wraps, " Wrap"), " ", find, " ", first, " ", earlier, " ", later, " ", last, " ", status,
  );
  const node = h("div", { class: "panel" }, note, text);
  let kept = 0;
  let skipped = 0;
  let target = null;
  let stop = null;
  /** Bytes of the output that are here, or were. */
  let position = 0;
  let isWhole = false;
  /** The part that is shown in place of the end: its first byte and the next one's. */
  let part = null;
  let foundAt = -1;
  let style = PLAIN;
  /** Characters in each block. */
  const lengths = [];
  let waiting = "";
  let waitingLine = null;
  let frame = null;
  let followedTo = 0;

  text.addEventListener("scroll", () => {
    // ours, not somebody's who reads
    if (text.scrollTop === followedTo) return;
    follows.checked = text.scrollHeight - text.scrollTop - text.clientHeight < 30;
  });

  function toEnd() {
    text.scrollTop = text.scrollHeight;
    followedTo = text.scrollTop;
  }

  function clear() {
    blocks.replaceChildren();
    rest.replaceChildren();
    style = PLAIN;
    lengths.length = 0;
    updateSteps();
    kept = 0;
    waiting = "";
    waitingLine = null;
  }

  function put({ done, line }) {
    waiting += done;
    waitingLine = line;
    frame ??= requestAnimationFrame(paint);
  }

  function paint() {
    frame = null;
    for (let at = 0; at < waiting.length; ) {
      if (lengths.length === 0 || lengths.at(-1) >= BLOCK) {
        blocks.append(h("span"));
        lengths.push(0);
      }
      let end = at + BLOCK - lengths.at(-1);
      // a colour is not cut in two
      const marks = waiting.slice(at, end).split(MARK).length - 1;
      if (marks % 2 === 1) end = waiting.indexOf(MARK, end) + 1 || waiting.length;
      const piece = waiting.slice(at, end);
      style = append(blocks.lastChild, piece, style);
      lengths[lengths.length - 1] += piece.length;
      at += piece.length;
      kept += piece.length;
    }
    waiting = "";
    while (kept > KEPT) {
      kept -= lengths.shift();
      skipped = Math.max(skipped, 1);
      blocks.firstChild.remove();
    }
    rest.replaceChildren();
    append(rest, waitingLine ?? "", style);
    setText(note, skipped > 0 && part === null ? "Only the end is shown here; the download has all of it." : "");
    show(note, note.textContent !== "");
    updateSteps();
    if (follows.checked) toEnd();
  }

  async function read(abort) {
    const { instance, machine } = target;
    let lines = new Lines(true);
    let isFresh = true;
    while (!abort.signal.aborted) {
      try {
        if (isFresh) {
          position = Math.max(0, target.length - TAIL_BYTES);
          skipped = position > 0 ? 1 : 0;
        }
        let cutsLine = isFresh && position > 0;
        const reader = await follow(instance, machine, position, abort.signal);
        if (isFresh) clear();
        isFresh = false;
        setText(status, target.isEnded ? "" : "live");
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          position += value.length;
          let piece = value;
          if (cutsLine) {
            const end = piece.indexOf(10);
            if (end < 0) continue;
            piece = piece.subarray(end + 1);
            cutsLine = false;
          }
          put(lines.push(piece));
          while (waiting.length > BLOCK * 8) await new Promise(requestAnimationFrame);
        }
        put(lines.end());
        lines = new Lines(true);
        isWhole = true;
        setText(status, position === 0 ? "no output" : bytes(position));
        return;
      } catch (problem) {
        if (abort.signal.aborted) return;
        if (!(problem instanceof Unreachable) && !(problem instanceof TypeError)) {
          setText(status, problem.message);
          return;
        }
        setText(status, "the daemon does not answer; trying again");
        // positions are exact only while nothing is left out
        isFresh = target.limit > 0 && position > target.limit;
        await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
      }
    }
  }

  function updateSteps() {
    const isCut = part !== null || skipped > 0;
    for (const button of [first, earlier, later, last]) show(button, isCut);
    first.disabled = part?.from === 0;
    earlier.disabled = part?.from === 0;
    later.disabled = part === null || part.until >= part.total;
    last.disabled = part === null;
  }

  /** Shows the part from that byte on, in place of the end. */
  async function open(from, isLineStart = from === 0) {
    stop?.abort();
    stop = new AbortController();
    const { signal } = stop;
    const { instance, machine } = target;
    follows.checked = false;
    try {
      const answer = await fetchPiece(instance, machine, from, from + PART_BYTES, signal);
      const { total } = answer;
      // whole lines
      const end = answer.data.lastIndexOf(10) + 1;
      const data = end > 0 && from + answer.data.length < total ? answer.data.subarray(0, end) : answer.data;
      const cut = isLineStart ? 0 : data.indexOf(10) + 1;
      part = { from, until: from + data.length, total };
      clear();
      const lines = new Lines(true);
      const begun = lines.push(data.subarray(cut));
      const ended = lines.end();
      put({ done: begun.done + ended.done, line: ended.line });
      paint();
      text.scrollTop = 0;
      setText(status, `${bytes(from)} to ${bytes(part.until)} of ${bytes(total)}`);
    } catch (problem) {
      if (!signal.aborted) setText(status, problem.message);
    }
  }

  /** Back to the end, and goes along with it. */
  function restart() {
    part = null;
    foundAt = -1;
    follows.checked = true;
    start();
  }

  /** The next place with that text, however large the output is. */
  async function search() {
    const wanted = find.value.toLowerCase();
    if (wanted === "" || target === null) return;
    stop?.abort();
    stop = new AbortController();
    const { signal } = stop;
    const { instance, machine } = target;
    const overlap = 4 * wanted.length;
    let from = foundAt + 1;
    try {
      for (;;) {
        const { data, total } = await fetchPiece(instance, machine, from, from + SEARCH_BYTES, signal);
        const shown = new TextDecoder().decode(data);
        const at = shown.toLowerCase().indexOf(wanted);
        if (at >= 0) {
          foundAt = from + new TextEncoder().encode(shown.slice(0, at)).length;
          await open(Math.max(0, foundAt - BEFORE_BYTES));
          mark(wanted, foundAt <= BEFORE_BYTES ? foundAt : BEFORE_BYTES / 2);
          return;
        }
        if (from + data.length >= total) break;
        from += data.length - overlap;
        setText(status, `searching, ${bytes(from)} of ${bytes(total)}`);
      }
      setText(status, foundAt < 0 ? "not found" : "no further place");
      foundAt = -1;
    } catch (problem) {
      if (!signal.aborted) setText(status, problem.status === 416 ? "not found" : problem.message);
    }
  }

  /** Selects the first place with that text at or after so many characters. */
  function mark(wanted, after) {
    const all = text.textContent.toLowerCase();
    let at = all.indexOf(wanted, Math.max(0, after - wanted.length - 8));
    if (at < 0) at = all.indexOf(wanted);
    if (at < 0) return;
    const range = document.createRange();
    const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
    let left = at;
    let length = -1;
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (length < 0 && left < node.length) {
        range.setStart(node, left);
        length = left + wanted.length;
      }
      if (length >= 0 && length <= node.length) {
        range.setEnd(node, length);
        break;
      }
      if (length < 0) left -= node.length;
      else length -= node.length;
    }
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    const place = range.getBoundingClientRect();
    text.scrollTop += place.top - text.getBoundingClientRect().top - text.clientHeight / 3;
  }

  function start() {
    stop?.abort();
    stop = new AbortController();
    isWhole = false;
    read(stop);
  }

  return {
    node,
    /** Stands above it, with what else can be done. */
    tools,
    /** Shows the output of that machine run: `{instance, machine, length, isEnded, limit}`, lengths in bytes. */
    show(wanted) {
      const isSame = target && target.instance === wanted.instance && target.machine === wanted.machine;
      target = wanted;
      if (!isSame) {
        clear();
        setText(status, "");
        restart();
      } else if (part === null && isWhole && wanted.length > position && !(wanted.limit > 0 && wanted.length > wanted.limit)) {
        // more has come after the end: a wrapper that is back
        start();
      }
    },
    /** Nobody looks: the connection is for those who do. */
    looked(isLooking) {
      if (target === null) return;
      if (!isLooking) {
        stop?.abort();
        stop = null;
      } else if (stop === null && part === null) {
        start();
      }
    },
    stop() {
      stop?.abort();
    },
  };
}
