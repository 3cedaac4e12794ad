// A command's output in a window that follows it: any bytes become lines of plain text, and however many come, only
// the last part is kept.

import { Unreachable, follow } from "./api.js";
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
/** Before it is tried again, in milliseconds. */
const RETRY_MS = 1_500;

// colours, cursor movements, titles of terminals
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -/]*[0-OQ-WYZ\\`-~])/g;
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/;
const CONTROLS = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;

/** Turns bytes into lines: a terminal's colours are left out, what a `\r` writes over is, too, other control characters are shown. */
export class Lines {
  #decoder = new TextDecoder();
  #held = "";
  #line = "";

  /** What is complete, and the line that is not yet. */
  push(piece) {
    return this.#take(this.#held + this.#decoder.decode(piece, { stream: true }), false);
  }

  end() {
    return this.#take(this.#held + this.#decoder.decode(), true);
  }

  #take(text, isEnd) {
    this.#held = "";
    text = text.replace(ESCAPES, "");
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

/** The window. `target(…)` says what it shows. */
export function outputPanel(app) {
  const blocks = h("span");
  const rest = h("span");
  const text = h("pre", { class: "output", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Output" }, blocks, rest);
  const follows = h("input", { type: "checkbox", checked: true, on: { change: () => follows.checked && toEnd() } });
  const note = h("p", { class: "quiet" });
  const status = h("span", { class: "quiet" });
  const tools = h("span", { class: "follow" }, h("label", {}, follows, " Follow"), " ", status);
  const node = h("div", { class: "panel" }, note, text);
  let kept = 0;
  let skipped = 0;
  let target = null;
  let stop = null;
  /** Bytes of the output that are here, or were. */
  let position = 0;
  let isWhole = false;
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
    setText(rest, "");
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
      let block = blocks.lastChild;
      if (!block || block.firstChild.length >= BLOCK) {
        block = h("span", {}, document.createTextNode(""));
        blocks.append(block);
      }
      const piece = waiting.slice(at, at + BLOCK - block.firstChild.length);
      block.firstChild.appendData(piece);
      at += piece.length;
      kept += piece.length;
    }
    waiting = "";
    while (kept > KEPT) {
      const first = blocks.firstChild;
      kept -= first.firstChild.length;
      skipped = Math.max(skipped, 1);
      first.remove();
    }
    setText(rest, waitingLine ?? "");
    setText(note, skipped > 0 ? "Only the end is shown here; the download has all of it." : "");
    show(note, skipped > 0);
    if (follows.checked) toEnd();
  }

  async function read(abort) {
    const { instance, machine } = target;
    let lines = new Lines();
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
        lines = new Lines();
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
        follows.checked = true;
        start();
      } else if (isWhole && wanted.length > position && !(wanted.limit > 0 && wanted.length > wanted.limit)) {
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
      } else if (stop === null) {
        start();
      }
    },
    stop() {
      stop?.abort();
    },
  };
}
